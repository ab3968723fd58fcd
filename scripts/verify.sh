#!/usr/bin/env bash
# Walks the verification checklist against a running server, as `chatkeep verify` does, with curl and jq alone.
#
#   scripts/verify.sh [URL]                 http://localhost:8000 unless it is given
#   scripts/verify.sh --unix-socket PATH    over the local socket
#   options: --session S (verifier); --folder DIR: the server's working directory, if it is another
#
# A token is taken from $CHATKEEP_TOKEN; messages may take $CHATKEEP_VERIFY_SECONDS (20) to arrive. A line for each check, ✓
# or ✗; exit code 0 when all passed. What a check expects of the configuration is what the status says of it: a script does
# not know the server's config file. A WebSocket is looked at up to its welcome, as curl cannot send there; `chatkeep verify`
# sends.
#
# Variables of jq's own stand in single quotes.
# shellcheck disable=SC2016
set -euo pipefail

readonly WAIT_SECONDS=${CHATKEEP_VERIFY_SECONDS:-20}

fail() {
    echo "error: $1" >&2
    exit 1
}

usage() {
    sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

missing=
for tool in curl jq; do
    command -v "$tool" >/dev/null || missing+=" $tool"
done
[ -z "$missing" ] || fail "missing:$missing; install them first"

url=http://localhost:8000
session=verifier
base=
how=()
while [ $# -gt 0 ]; do
    case "$1" in
        --unix-socket)
            [ $# -ge 2 ] || usage
            how=(--unix-socket "$2")
            url=http://localhost
            place=$2
            # A socket stands in the data folder, whose parent is where the server's relative paths begin by default.
            [ -n "$base" ] || base=$(dirname "$(dirname "$2")")
            shift
            ;;
        --session)
            [ $# -ge 2 ] || usage
            session=$2
            shift
            ;;
        --folder)
            [ $# -ge 2 ] || usage
            base=$2
            shift
            ;;
        http://* | https://*) url=${1%/} ;;
        *) usage ;;
    esac
    shift
done
place=${place:-$url}

# ask PATH [OPTION…]: the reply's body on stdout, whatever its status; the token stays out of the list of processes.
ask() {
    local path=$1
    shift
    curl --silent --show-error --max-time 60 "${how[@]}" -H @<(authorization) "$@" "$url$path"
}

authorization() {
    if [ -n "${CHATKEEP_TOKEN:-}" ]; then echo "Authorization: Bearer $CHATKEEP_TOKEN"; fi
}

failed=0
passed() { printf '✓ %-11s %s\n' "$1" "$2"; }
refused() {
    printf '✗ %-11s %s\n' "$1" "$2"
    failed=$((failed + 1))
}

# value JSON FILTER [JQ-OPTION…]: what the filter finds, as plain text.
value() {
    local json=$1 filter=$2
    shift 2
    jq -r "$@" "$filter" <<<"$json" 2>/dev/null || true
}

# wait_for FILTER [JQ-OPTION…]: leaves in $status the first status for which it holds, or the last of the time there is.
wait_for() {
    local until=$((SECONDS + WAIT_SECONDS))
    while status=$(ask /api/storage/status) && ! jq -e "$@" >/dev/null <<<"$status"; do
        if ((SECONDS >= until)); then return 1; fi
        sleep 0.1
    done
}

before=$(ask /api/storage/status 2>&1) || fail "no server answers at $place: ${before##*curl: }; start it with \`chatkeep serve\`"
jq -e .cache >/dev/null 2>&1 <<<"$before" || fail "$place refuses: $(value "$before" '.detail // "that is no chatkeep"')"
# Whether somebody answers; what is looked for follows from that.
answered=$(value "$before" '.responder.kind != "none"')
sent=2 what="both messages"
if [ "$answered" != true ]; then sent=1 what="the message"; fi

rest() {
    local body reply
    body=$(jq -cn --arg session "$session" '{message: "ping from rest", session_id: $session}')
    reply=$(ask /api/chat -X POST -H 'Content-Type: application/json' -d "$body") || reply='{}'
    user=$(value "$reply" '.user_message_id // empty')
    assistant=$(value "$reply" '.assistant_message_id // empty')
    local durable
    durable=$(value "$before" 'if .journal.fsync == "always" then "disk" else "os" end')
    if [ -z "$user" ]; then
        refused REST "the message is refused: $(value "$reply" '.detail // "no reason is given"')"
    elif [ "$answered" = true ] && [ -z "$(value "$reply" '.response // empty')" ]; then
        refused REST "the message is recorded, and there is no answer (its log says why)"
    elif [ "$answered" = true ] && [ "$(value "$reply" .status)" != completed ]; then
        refused REST "the status of the reply is $(value "$reply" .status), not completed: $(value "$reply" .response)"
    elif [ "$(value "$reply" .durable)" != "$durable" ]; then
        refused REST "the reply is durable as $(value "$reply" .durable), and journal.fsync wants $durable"
    elif [ "$answered" != true ]; then
        passed REST "POST /api/chat: the message is recorded, durable: $durable; nobody answers (responder.kind is none)"
    else
        passed REST "POST /api/chat is answered, both messages are recorded, durable: $durable"
    fi
}

history() {
    local page roles
    page=$(ask "/api/chat/history?session_id=$session&limit=50") || page='{}'
    roles=$(value "$page" '[.messages[]? | select(.id == $user or .id == $assistant) | .role] | join(" and ")' \
        --arg user "$user" --arg assistant "$assistant")
    if [ "$roles" = "user and assistant" ]; then
        passed history "GET /api/chat/history shows them, of the roles $roles"
    elif [ "$answered $roles" = "false user" ]; then
        passed history "GET /api/chat/history shows it, of the role user"
    else
        refused history "of what was recorded it shows: ${roles:-none} (see REST)"
    fi
}

websocket() {
    local head frames
    if ((${#how[@]} > 0)); then
        passed WebSocket "is served over TCP and not looked at"
        return
    fi
    # The stream goes on until the time is over, which is no fault.
    frames=$(ask "/ws/chat?session_id=$session" --http1.1 --no-buffer --max-time 3 --include -H 'Connection: Upgrade' \
        -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' \
        2>/dev/null | tr -d '\000') || true
    head=${frames%%$'\r'*}
    case "$head" in
        *" 101"*)
            if grep -aq '"type":"system"' <<<"$frames"; then
                passed WebSocket "/ws/chat sends its welcome (chatkeep verify also sends a message)"
            else
                refused WebSocket "/ws/chat opens and sends no welcome within 3 s"
            fi
            ;;
        *" 404"*)
            if [ "$(value "$before" 'has("websocket")')" = true ]; then
                refused WebSocket "/ws/chat is 404, and the status has a websocket block"
            else
                passed WebSocket "/ws/chat is not served by this version (404)"
            fi
            ;;
        *) refused WebSocket "/ws/chat is refused: ${head:-no answer}" ;;
    esac
}

flush() {
    local last why
    last=$(value "$(ask /api/storage/status)" .journal.last_sequence)
    if wait_for '.journal.checkpoint >= $last' --argjson last "${last:-0}"; then
        passed flush "all $last records have arrived, $(value "$status" .queue.pending) are pending"
    else
        why=$(value "$status" '.mongo.reason // "is the folder of the transcripts writable? the log says"')
        refused flush "$(value "$status" .queue.pending) records are pending after $WAIT_SECONDS s (why: $why)"
    fi
}

transcript() {
    local folder name file id
    folder=$(value "$before" .cache.disk_path)
    name=${session/#./%2E}.jsonl
    file=$folder/$name
    if [ "${folder:0:1}" != / ]; then file=${base:-.}/$file; fi
    if [ ! -d "$(dirname "$file")" ]; then
        passed transcript "$folder is not here and not looked at (--folder DIR: the server's working directory)"
        return
    fi
    if [ ! -f "$file" ]; then
        refused transcript "$file: it is no file (is its folder writable for the server? its log says)"
        return
    fi
    for id in $user $assistant; do
        if ! tail -n 1000 "$file" | jq -e --arg id "$id" -n 'any(inputs; .id == $id)' >/dev/null; then
            refused transcript "$file has no line of $id (is its folder writable for the server? its log says)"
            return
        fi
    done
    passed transcript "$file has $what"
}

mongo() {
    local how_it_is
    wait_for '.mongo.status != "connecting"' || true
    case "$(value "$status" '"\(.mongo.enabled) \(.mongo.status)"')" in
        "false disabled") passed MongoDB "disabled, as configured" ;;
        "true ok") passed MongoDB "ok, $(value "$status" '.mongo | "\(.database).\(.chat_collection) on \(.hosts | join(", "))"')" ;;
        *)
            how_it_is=$(value "$status" '.mongo | "\(.status) since \(.since): \(.reason)"')
            refused MongoDB "its status is $how_it_is (start MongoDB, or put mongo.uri right; messages wait in the journal)"
            ;;
    esac
}

documents() {
    local page newest persisted
    if [ "$(value "$before" .mongo.enabled)" != true ]; then
        passed documents "none are wanted, MongoDB is not enabled"
        return
    fi
    if ! wait_for '.queue.stored + .queue.already_stored >= $before.queue.stored + $before.queue.already_stored + $sent' \
        --argjson before "$before" --argjson sent "$sent"; then
        refused documents "MongoDB has not got $what (why: $(value "$status" '.mongo.reason // "see its log"'))"
        return
    fi
    page=$(ask "/api/chat/history?session_id=$session&limit=1") || page='{}'
    newest=$(value "$page" '.messages[-1].created_at')
    persisted=$(value "$page" .last_persisted_at)
    # Times of this form are in order as texts.
    if [[ "$persisted" < "$newest" || "$persisted" = null ]]; then
        refused documents "last_persisted_at is $persisted, and the newest message is of $newest"
    else
        passed documents "$what: stored, last_persisted_at is $persisted"
    fi
}

cache() {
    if jq -e '.cache.max_messages_per_session > 0 and .cache.flush_enabled == .mongo.enabled' >/dev/null <<<"$before"; then
        passed cache "$(value "$before" '.cache | "\(.max_messages_per_session) messages a session, \(.max_bytes) bytes, \(.disk_path)"')"
    else
        refused cache "is odd: $(value "$before" .cache -c)"
    fi
}

journal() {
    local word
    word=$(value "$(ask /api/storage/status)" .journal.status)
    if [ "$word" = ok ]; then
        passed journal "ok, fsync $(value "$before" .journal.fsync)"
    else
        refused journal "its status is ${word:-unknown} (make room, or mend its disk; it goes on by itself)"
    fi
}

user=''
assistant=''
status=''
rest
history
websocket
flush
transcript
mongo
documents
cache
journal
echo "To erase what this recorded:"
echo "  curl -X DELETE${CHATKEEP_TOKEN:+ -H \"Authorization: Bearer \$CHATKEEP_TOKEN\"}${how[*]:+ ${how[*]}} $url/api/chat/sessions/$session"
if ((failed > 0)); then fail "$failed of 9 checks failed"; fi
