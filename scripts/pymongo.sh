#!/usr/bin/env bash
# A Python with MongoDB's drivers pymongo and motor, for the test that reads chatkeep's documents as another program would.
#
#   scripts/pymongo.sh    prints the path of its python; the first time it makes it, under .cache/pymongo
#
# A Python with both may be named in $PYMONGO instead. The versions are pinned: what is tested is what chatkeep writes.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache="$root/.cache/pymongo"
readonly PACKAGES=(pymongo==4.9.2 motor==3.7.1 dnspython==2.7.0)

fail() {
    echo "error: $1" >&2
    exit 1
}

make() {
    command -v python3 >/dev/null || fail "no python3 here; set PYMONGO to the path of a python that has pymongo and motor"
    mkdir -p "$cache"
    # Several tests may start at once: one makes it, under a lock.
    exec 9>"$cache/lock"
    flock 9
    if [ -e "$cache/ready" ]; then return; fi
    echo "no pymongo here: fetching ${PACKAGES[*]}" >&2
    rm -rf "$cache/venv"
    python3 -m venv "$cache/venv" >&2 || fail "python3 cannot make a virtual environment (on Debian: apt install python3-venv)"
    "$cache/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "${PACKAGES[@]}" >&2 ||
        fail "pip could not fetch ${PACKAGES[*]}; set PYMONGO to the path of a python that has pymongo and motor"
    "$cache/venv/bin/python" -c "import pymongo, motor.motor_asyncio" || fail "pymongo and motor do not run on this system"
    touch "$cache/ready"
}

if [ $# -gt 0 ]; then
    sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
if [ -n "${PYMONGO:-}" ]; then
    "$PYMONGO" -c "import pymongo, motor.motor_asyncio" || fail "PYMONGO=$PYMONGO is no python with pymongo and motor"
    echo "$PYMONGO"
else
    if [ ! -e "$cache/ready" ]; then (make); fi
    echo "$cache/venv/bin/python"
fi
