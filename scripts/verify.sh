#!/usr/bin/env bash
# Walks the verification checklist against a running server by curl and jq: a line for each check, ✓ or ✗; exit code 0 when all
# passed. `chatkeep verify` is the full one: it knows the configuration, tells reasons, and sends over the WebSocket, too.
#
#   scripts/verify.sh [URL | --unix-socket PATH]     http://localhost:8000 unless it is given
#
# A token is taken from $CHATKEEP_TOKEN; messages may take $CHATKEEP_VERIFY_SECONDS (20) to arrive.
# shellcheck disable=SC2016
set -euo pipefail

missing=$(for tool in curl jq; do command -v "$tool" >/dev/null || printf ' %s' "$tool"; done)
[ -z "$missing" ] || { echo "error: missing:$missing; install them first" >&2; exit 1; }
url=${1:-http://localhost:8000} place=${1:-http://localhost:8000} how=() base=.
if [ "$url" = --unix-socket ]; then how=(--unix-socket "$2") place=$2 url=http://localhost base=$(dirname "$(dirname "$2")"); fi
# The token stays out of the list of processes.
token() { [ -z "${CHATKEEP_TOKEN:-}" ] || echo "Authorization: Bearer $CHATKEEP_TOKEN"; }
ask() { curl -sS --max-time 60 "${how[@]}" -H @<(token) "${@:2}" "${url%/}$1"; }
failed=0
check() { # NAME WHAT JSON FILTER [JQ-OPTION…]
    local mark=✓ what=$2
    jq -e "${@:4}" >/dev/null 2>&1 <<<"$3" || { mark=✗ failed=$((failed + 1)) what="$2? ${3:0:2000}"; }
    printf '%s %-11s %s\n' "$mark" "$1" "$what"
}
await() { # FILTER [JQ-OPTION…]: leaves in $status the first for which it holds, or the last
    local until=$((SECONDS + ${CHATKEEP_VERIFY_SECONDS:-20}))
    while status=$(ask /api/storage/status) && ! jq -e "$@" >/dev/null <<<"$status" && ((SECONDS < until)); do sleep 0.1; done
}

before=$(ask /api/storage/status 2>&1) || { echo "error: no server answers at $place: $before" >&2; exit 1; }
jq -e .cache >/dev/null <<<"$before" || { echo "error: $place refuses: $before" >&2; exit 1; }
given=(--argjson before "$before")
reply=$(ask /api/chat -H 'Content-Type: application/json' -d '{"message": "ping from rest", "session_id": "verifier"}')
ids=$(jq -c '[.user_message_id, .assistant_message_id // empty]' <<<"$reply")
check REST "POST /api/chat records a message and its answer" "$reply" "${given[@]}" \
    '.user_message_id and ($before.responder.kind == "none" or .status == "completed") and .durable == (if $before.journal.fsync == "always" then "disk" else "os" end)'
check history "GET /api/chat/history shows them" "$(ask '/api/chat/history?session_id=verifier')" --argjson ids "$ids" '$ids - [.messages[].id] == []'
upgrade=$(ask '/ws/chat?session_id=verifier' --http1.1 -N -m 3 -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \
    -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' 2>/dev/null | tr -d '\000' | grep -ao '"type":"system"' | head -n 1) || true
check WebSocket "/ws/chat sends its welcome (over TCP)" "{${upgrade:-}}" --arg how "${how[*]}" '$how != "" or .type == "system"'
await '.journal.checkpoint >= $last' --argjson last "$(ask /api/storage/status | jq .journal.last_sequence)"
check flush "all records have arrived" "$status" '.queue.pending == 0'
folder=$(jq -r .cache.disk_path <<<"$before") && [ "${folder:0:1}" = / ] || folder=$base/$folder
if [ -d "$folder" ]; then lines=$(tail -n 1000 "$folder/verifier.jsonl" | jq -cs 'map(.id)') || lines=[]; else lines=$ids; fi
check transcript "$folder/verifier.jsonl has them, where it can be seen from here" "$lines" --argjson ids "$ids" '$ids - . == []'
await '.mongo.status != "connecting"'
check MongoDB "disabled, or ok" "$(jq -c .mongo <<<"$status")" '[.enabled, .status] | . == [false, "disabled"] or . == [true, "ok"]'
stored='($before.mongo.enabled | not) or (.queue | .stored + .already_stored) >= ($before.queue | .stored + .already_stored) + ($ids | length)'
await "${given[@]}" --argjson ids "$ids" "$stored"
check documents "MongoDB has them, if it is enabled" "$(jq -c .queue <<<"$status" | jq -c '{queue: .}')" "${given[@]}" --argjson ids "$ids" "$stored"
check cache "as configured" "$(jq -c .cache <<<"$before")" "${given[@]}" '.max_messages_per_session > 0 and .flush_enabled == $before.mongo.enabled'
check journal "ok" "$(jq -c .journal <<<"$status")" '.status == "ok"'
echo "To erase what this recorded: curl -X DELETE${CHATKEEP_TOKEN:+ -H \"Authorization: Bearer \$CHATKEEP_TOKEN\"}${how[*]:+ ${how[*]}} ${url%/}/api/chat/sessions/verifier"
((failed == 0)) || { echo "error: $failed of 9 checks failed" >&2; exit 1; }
