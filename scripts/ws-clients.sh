#!/usr/bin/env bash
# Independent WebSocket clients against a running server, and a conformance suite against our frames.
#
#   scripts/ws-clients.sh python HOST:PORT [TOKEN]     websockets, for Python
#   scripts/ws-clients.sh node HOST:PORT [TOKEN]       ws, for Node
#   scripts/ws-clients.sh document HOST:PORT TOKEN     the client that docs/websocket.md shows, with Node's ws
#   scripts/ws-clients.sh chromium HOST:PORT TOKEN     a headless Chromium, and that client in it; its page is of
#                                                      http://127.0.0.1:PAGE_PORT, an origin that the server must allow
#                                                      (default port 8765)
#   scripts/ws-clients.sh eventsource HOST:PORT        an EventSource in it, from the same page; it says when to restart the server
#   scripts/ws-clients.sh kosoku                       the suite, against the pool with a handler that echoes
#   scripts/ws-clients.sh fetch                        fetches what these need, Chromium excepted
#
# Each does the same: says something, sees it from a second socket, loses the connection, resumes without a gap; the last line
# is `ok`. What is needed is fetched in pinned versions into .cache/ws-clients (Chromium by apt, which needs root).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache="$root/.cache/ws-clients"
here="$root/scripts/ws-clients"
readonly WEBSOCKETS=websockets==17.4
readonly SUITE=kosoku==0.1.0
readonly WS=ws@8.23.0

fail() {
    echo "error: $1" >&2
    exit 1
}

usage() {
    sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

# Several tests may want the same: one fetches.
locked() {
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock 9
}

python() {
    locked
    # What a fetch left that was ended half-way is made again.
    if [ ! -e "$cache/python/ready" ]; then
        rm -rf "$cache/python"
        python3 -m venv "$cache/python" >&2
        touch "$cache/python/ready"
    fi
    if ! "$cache/python/bin/python" -m pip --quiet --disable-pip-version-check install "$1" >&2; then
        fail "pip could not fetch $1"
    fi
    exec 9>&-
}

node_client() {
    command -v npm >/dev/null || fail "no npm on the PATH"
    locked
    if [ ! -e "$cache/node_modules/ready" ]; then
        rm -rf "$cache/node_modules"
        npm install --silent --no-audit --no-fund --prefix "$cache" "$WS" >&2
        touch "$cache/node_modules/ready"
    fi
    exec 9>&-
}

case "${1:-}" in
    fetch)
        python "$WEBSOCKETS"
        python "$SUITE"
        node_client
        ;;
    python)
        python "$WEBSOCKETS"
        exec "$cache/python/bin/python" "$here/client.py" "${@:2}"
        ;;
    node | document)
        node_client
        program=client
        if [ "$1" = document ]; then program=document; fi
        NODE_PATH="$cache/node_modules" exec node "$here/$program.js" "${@:2}"
        ;;
    chromium | eventsource)
        locked
        if ! command -v chromium-headless-shell >/dev/null; then
            as_root=()
            ((EUID == 0)) || as_root=(sudo)
            { "${as_root[@]}" apt-get update -q && "${as_root[@]}" apt-get install -y -q --no-install-recommends chromium-headless-shell; } >&2 ||
                fail "apt could not install chromium-headless-shell"
        fi
        exec 9>&-
        exec python3 "$here/browser.py" "$@"
        ;;
    kosoku)
        python "$SUITE"
        cd "$root"
        KOSOKU="$cache/python/bin/kosoku" exec cargo test --locked --no-default-features --lib conformance -- --ignored
        ;;
    *) usage ;;
esac
