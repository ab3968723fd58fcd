#!/bin/sh
# Answers questions about the machine that chatkeep runs on: plain sh, no JSON parser needed.
#
#   responder:
#     kind: command
#     command: ["scripts/responders/machine.sh"]
#
# A message that is one of the words below is answered with what the command beside it prints; any other with the list of
# words. Add words of your own; never run what a message says.
set -u

# chatkeep writes one JSON object on one line to our stdin; its third field is the text of the message to answer. Escapes are
# left as they are: no word below has any.
word=$(sed -n 's/^{"session_id":"[^"]*","message_id":"[^"]*","text":"\(\([^"\\]\|\\.\)*\)".*/\1/p' |
    tr '[:upper:]' '[:lower:]')

case "$word" in
    disk) df -h . ;;
    memory) free -h 2>/dev/null || echo "free is not installed here" ;;
    load) uptime ;;
    time) date ;;
    who) echo "session $CHATKEEP_SESSION_ID, message $CHATKEEP_MESSAGE_ID" ;;
    # An exit code other than 0 makes the answer an error, which shows the end of stderr.
    fail) echo "this is how a failure looks" >&2 && exit 3 ;;
    *) echo "I know these words: disk, memory, load, time, who, fail" ;;
esac
