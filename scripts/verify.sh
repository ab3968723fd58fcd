#!/usr/bin/env bash
# Walks the verification checklist against a running server by curl and jq: a line for each check, ✓ or ✗; exit code 0 when all
# passed. `chatkeep verify` checks more: it knows the configuration, gives reasons, and also uses the WebSocket.
#
#   scripts/verify.sh [URL | --unix-socket PATH]     http://127.0.0.1:8000 unless it is given
#
# A token is taken from $CHATKEEP_TOKEN; messages may take $CHATKEEP_VERIFY_SECONDS (20) to arrive.
# shellcheck disable=SC2016
set -euo pipefail

missing=$(for tool in curl jq; do command -v "$tool" >/dev/null || printf ' %s' "$tool"; done)
[ -z "$missing" ] || { echo "error: missing:$missing; install them first" >&2; exit 1; }
url=${1:-http://127.0.0.1:8000} place=${1:-http://127.0.0.1:8000} how=() base=.
if [ "$url" = --unix-socket ]; then how=(--unix-socket "$2") place=$2 url=http://127.0.0.1 base=$(dirname "$(dirname "$2")"); fi
printf -v session 'verify-%x-%04x%04x%04x' "$(date +%s)" "$RANDOM" "$RANDOM" "$RANDOM" # nobody else has it
# The token stays out of the list of processes.
token() { [ -z "${CHATKEEP_TOKEN:-}" ] || echo "Authorization: Bearer $CHATKEEP_TOKEN"; }
ask() { curl -sS --max-time 60 "${how[@]}" -H @<(token) "${@:2}" "${url%/}$1"; }
failed=0
check() { # NAME WHAT JSON FILTER [PART]: of a JSON that does not meet the filter, the part is shown
    local mark=✓ what=$2
    jq -e "${given[@]}" "$4" >/dev/null 2>&1 <<<"$3" || { mark=✗ failed=$((failed + 1)) what="$2? $(jq -c "${5:-.}" <<<"$3" 2>&1 | head -c 2000)"; }
    printf '%s %-11s %s\n' "$mark" "$1" "$what"
}
await() { # NAME WHAT FILTER PART: checks the first status that meets the filter, or the last of the time there is
    local status until=$((SECONDS + ${CHATKEEP_VERIFY_SECONDS:-20}))
    while status=$(ask /api/storage/status) && ! jq -e "${given[@]}" "$3" >/dev/null <<<"$status" && ((SECONDS < until)); do sleep 0.1; done
    check "$1" "$2" "$status" "$3" "$4"
}

before=$(ask /api/storage/status 2>&1) || { echo "error: no server answers at $place: $before" >&2; exit 1; }
jq -e .cache >/dev/null <<<"$before" || { echo "error: $place refuses: $before" >&2; exit 1; }
reply=$(ask /api/chat -H 'Content-Type: application/json' -d '{"message": "ping from rest", "session_id": "'"$session"'"}') || true
ids=$(jq -c '[.user_message_id, .assistant_message_id // empty]' <<<"$reply" 2>/dev/null) && [ -n "$ids" ] || ids='[null]'
given=(--argjson before "$before" --argjson ids "$ids" --arg how "${how[*]}")
check REST "POST /api/chat records a message and its answer" "$reply" \
    '.user_message_id and ($before.responder.kind == "none" or .status == "completed") and .durable == (if $before.journal.fsync == "always" then "disk" else "os" end)'
check history "GET /api/chat/history shows them" "$(ask "/api/chat/history?session_id=$session")" '$ids - [.messages[].id] == []'
for seconds in 3 20; do # each passes to its end, so the longer one is for a slow server only
    upgrade=$(ask "/ws/chat?session_id=$session" --http1.1 -N -m $seconds -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \
        -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' 2>/dev/null | tr -d '\000' | grep -ao '"type":"system"' | head -n 1) || true
    [ -z "$upgrade" ] || break
done
check WebSocket "/ws/chat sends its welcome (over TCP)" "{${upgrade:-}}" '$how != "" or .type == "system"'
given+=(--argjson last "$(ask /api/storage/status | jq .journal.last_sequence)")
await flush "all records have arrived" '.journal.checkpoint >= $last and .queue.pending == 0' .queue
folder=$(jq -r .cache.disk_path <<<"$before") && [ "${folder:0:1}" = / ] || folder=$base/$folder
if [ -d "$folder" ]; then lines=$(tail -n 1000 "$folder/$session.jsonl" | jq -cs 'map(.id)') || lines=[]; else lines=$ids; fi
check transcript "$folder/$session.jsonl has them, where it can be seen from here" "$lines" '$ids - . == []'
await MongoDB "disabled, or ok" '.mongo | [.enabled, .status] | . == [false, "disabled"] or . == [true, "ok"]' .mongo
await documents "MongoDB has them, if it is enabled" \
    '($before.mongo.enabled | not) or (.queue | .stored + .already_stored) >= ($before.queue | .stored + .already_stored) + ($ids | length)' .queue
check cache "as configured" "$before" '.cache.max_messages_per_session > 0 and .cache.flush_enabled == $before.mongo.enabled' .cache
await journal "ok" '.journal.status == "ok"' .journal
echo "To erase what this recorded: curl -X DELETE${CHATKEEP_TOKEN:+ -H \"Authorization: Bearer \$CHATKEEP_TOKEN\"}${how[*]:+ ${how[*]}} ${url%/}/api/chat/sessions/$session"
((failed == 0)) || { echo "error: $failed of 9 checks failed" >&2; exit 1; }
