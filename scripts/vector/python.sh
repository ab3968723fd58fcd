#!/usr/bin/env bash
# A Python with what scripts/vector/pipeline.py needs, for its tests.
#
#   scripts/vector/python.sh    prints the path of its python; the first time it makes it, under .cache/vector
#
# The versions are those of requirements.txt, with what they stand on; it is made again when that file changes. About 190 MB.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=$(cd "$here/../.." && pwd)/.cache/vector

fail() {
    echo "error: $1" >&2
    exit 1
}

make() {
    command -v python3 >/dev/null || fail "no python3 here, which scripts/vector needs"
    mkdir -p "$cache"
    # Several tests may look at once: one makes it, under a lock that ends with it.
    exec 9>"$cache/lock"
    flock 9
    if cmp -s "$here/requirements.txt" "$cache/ready"; then return; fi
    echo "fetching what scripts/vector/requirements.txt names" >&2
    rm -rf "$cache/venv"
    python3 -m venv "$cache/venv" >&2 || fail "python3 cannot make a virtual environment (on Debian: apt install python3-venv)"
    # Python compiles what is imported when it is, which is a small part.
    "$cache/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile -r "$here/requirements.txt" >&2 ||
        fail "pip could not fetch what scripts/vector/requirements.txt names"
    cp "$here/requirements.txt" "$cache/ready"
}

if [ $# -gt 0 ]; then
    sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
if ! cmp -s "$here/requirements.txt" "$cache/ready"; then (make); fi
echo "$cache/venv/bin/python"
