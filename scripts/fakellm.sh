#!/usr/bin/env bash
# An independent server that speaks OpenAI's protocol, for tests and trials: fakellm answers by the rules in a file.
#
#   scripts/fakellm.sh find                    prints the path of a fakellm, fetching one if need be
#   scripts/fakellm.sh serve --config FILE …   runs it in the foreground; `--port 0` takes a free port and says which
#
# With these rules in FILE it answers everything, on http://127.0.0.1:9999/v1 unless --port says otherwise:
#
#     version: 1
#     rules:
#       - {name: hello, when: {messages_contain: hello}, respond: {content: "Hello to you."}}
#       - {name: rest, when: {}, respond: {content: "I have rules only."}}
#
# It is looked for in $FAKELLM and on the PATH; otherwise it is fetched by pip into a virtual environment in .cache/fakellm.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache="$root/.cache/fakellm"
# With its dependencies, so that later runs use the same.
readonly PACKAGES=(fakellm==0.3.5 fastapi==0.165.0 starlette==1.10.0 pydantic==2.14.4 uvicorn==0.54.0)

fail() {
    echo "error: $1" >&2
    exit 1
}

usage() {
    sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

fetch() {
    command -v python3 >/dev/null || fail "no fakellm on the PATH, and no python3 to fetch one; set FAKELLM to its path"
    mkdir -p "$cache"
    # Several tests may start at once: one fetches, under a lock.
    exec 9>"$cache/lock"
    flock 9
    if [ -e "$cache/whole" ]; then return; fi
    echo "no fakellm here: fetching ${PACKAGES[0]}" >&2
    # A virtual environment cannot be moved, so one that a broken run left is made again in place.
    rm -rf "$cache/venv"
    python3 -m venv "$cache/venv" >&2 || fail "python3 cannot make a virtual environment (python3-venv may be missing)"
    "$cache/venv/bin/python" -m pip install --quiet --disable-pip-version-check "${PACKAGES[@]}" >&2 ||
        fail "pip could not fetch ${PACKAGES[0]}; set FAKELLM to the path of a fakellm"
    "$cache/venv/bin/fakellm" --version >/dev/null || fail "the fakellm that was fetched does not run on this system"
    touch "$cache/whole"
}

# Leaves the path in $fakellm.
find_fakellm() {
    if [ -n "${FAKELLM:-}" ]; then
        [ -x "$FAKELLM" ] || fail "FAKELLM=$FAKELLM is no program"
        fakellm=$FAKELLM
    elif command -v fakellm >/dev/null; then
        fakellm=$(command -v fakellm)
    else
        if [ ! -e "$cache/whole" ]; then (fetch); fi
        fakellm="$cache/venv/bin/fakellm"
    fi
}

case "${1:-}" in
    find)
        find_fakellm
        echo "$fakellm"
        ;;
    serve)
        find_fakellm
        exec "$fakellm" "$@"
        ;;
    *) usage ;;
esac
