#!/usr/bin/env bash
# Clients of OpenAI's protocol that others wrote, against a server at a base URL such as http://127.0.0.1:8000/v1.
#
#   scripts/openai-clients.sh run CLIENT URL [STEP …]   says what a client can say, or these steps of it; the last line is `ok`
#   scripts/openai-clients.sh record CLIENT FILE        says it to scripts/openai-clients/recorder.py, which writes down in FILE
#                                                       what it was asked; tests/data/openai/CLIENT.jsonl is made like this
#   scripts/openai-clients.sh recorder FILE [PORT]      that server alone: it answers by rule
#   scripts/openai-clients.sh fetch [CLIENT …]          fetches what these clients need, or what all need
#
# CLIENT is one of: openai-python, openai-node, langchain, litellm, llm, ai-sdk, ai-sdk-compatible. The server's token is taken
# from OPENAI_CLIENT_TOKEN. The server behind URL must repeat in its answer what the last user message said, and must call a
# tool that it is offered: the recorder does, and so does chatkeep in front of it. Versions are pinned in
# scripts/openai-clients; what is fetched goes into .cache/openai-clients.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache="$root/.cache/openai-clients"
here="$root/scripts/openai-clients"
readonly CLIENTS=(openai-python openai-node langchain litellm llm ai-sdk ai-sdk-compatible)

fail() {
    echo "error: $1" >&2
    exit 1
}

usage() {
    sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

# fetched NAME FILE COMMAND…: runs the command unless that was done for this content of FILE; several tests may want the same,
# and one fetches.
fetched() {
    local folder="$cache/$1" pinned=$2
    shift 2
    mkdir -p "$folder"
    exec 9>"$folder/lock"
    flock 9
    if ! cmp -s "$pinned" "$folder/ready"; then
        echo "fetching what $pinned names" >&2
        "$@" "$folder" "$pinned" >&2 || fail "what $pinned names could not be fetched"
        cp "$pinned" "$folder/ready"
    fi
    exec 9>&-
}

make_venv() {
    rm -rf "$1/venv"
    python3 -m venv "$1/venv" && "$1/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r "$2"
}

make_modules() {
    cp "$here/package.json" "$here/package-lock.json" "$1" && npm ci --silent --no-audit --no-fund --prefix "$1"
}

# client NAME: fetches what it needs, and leaves the command that runs it in `command`.
client() {
    local program=openai_client
    case "$1" in
        openai-python | langchain | litellm | llm)
            command -v python3 >/dev/null || fail "no python3 on the PATH"
            local name=${1#openai-}
            if [ "$1" = openai-python ]; then name=openai; fi
            fetched "$name" "$here/$name.txt" make_venv
            command=("$cache/$name/venv/bin/python" -B "$here/${name}_client.py")
            ;;
        openai-node | ai-sdk | ai-sdk-compatible)
            command -v npm >/dev/null || fail "no npm on the PATH"
            fetched node "$here/package-lock.json" make_modules
            if [ "$1" != openai-node ]; then program=ai_sdk; fi
            command=(env "NODE_PATH=$cache/node/node_modules" "AI_SDK_PROVIDER=$1" node "$here/$program.js")
            ;;
        *) fail "no client is called $1; there are: ${CLIENTS[*]}" ;;
    esac
}

record() {
    local file=$2 work recorder url="" code=0
    client "$1"
    work=$(mktemp -d)
    python3 -B "$here/recorder.py" "$work/requests" >"$work/address" &
    recorder=$!
    for _ in $(seq 100); do
        if url=$(grep -m 1 . "$work/address"); then break; fi
        sleep 0.1
    done
    "${command[@]}" "$url/{step}/v1" || code=$?
    kill "$recorder"
    if [ "$code" = 0 ]; then cp "$work/requests" "$file"; fi
    rm -r "$work"
    return "$code"
}

case "${1:-} $#" in
    fetch\ *)
        wanted=("${@:2}")
        if [ $# = 1 ]; then wanted=("${CLIENTS[@]}"); fi
        for name in "${wanted[@]}"; do client "$name"; done
        ;;
    run\ [3-9] | run\ ??)
        client "$2"
        exec "${command[@]}" "${@:3}"
        ;;
    record\ 3) record "$2" "$3" ;;
    recorder\ [23]) exec python3 -B "$here/recorder.py" "${@:2}" ;;
    *) usage ;;
esac
