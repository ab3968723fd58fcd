# What the parts share. scripts/packages/test calls it in namespaces of its own, as common.sh PART TEST: it runs one test in $WORK.
# shellcheck shell=bash
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly WAIT_SECONDS=120

fail() {
    echo "failed: $1" >&2
    tail -n 20 "$WORK"/*.log >&2 2>/dev/null || true
    exit 1
}

# wait_until WHAT COMMAND…: until it succeeds.
wait_until() {
    local what=$1 deadline=$((SECONDS + WAIT_SECONDS))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || fail "waited $WAIT_SECONDS s in vain: $what"
        sleep 0.1
    done
}

# in_root ROOT USER FOLDER COMMAND…: runs it there, with $variables and nothing else of this environment, and becomes it.
in_root() {
    local root=$1 user=$2 folder=$3
    shift 3
    exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/nonexistent DEBIAN_FRONTEND=noninteractive "${variables[@]}" \
        unshare --root="$root" --wd="$folder" --setgid "$user" --setuid "$user" "$@"
}
variables=()

# server ROOT USER FOLDER COMMAND…: starts it in that root, and leaves its process in $pid and its address in $url.
server() {
    : >"$WORK/stdout"
    (in_root "$@") >"$WORK/stdout" 2>>"$WORK/server.log" &
    pid=$!
    wait_until "the server listens or has ended" listens_or_ended
    kill -0 "$pid" 2>/dev/null || fail "the server does not start"
    url=$(sed -n 's/^listening on //p' "$WORK/stdout")
}

listens_or_ended() { grep -q '^listening on ' "$WORK/stdout" || ! kill -0 "$pid"; }

# stop_server: ends it as systemd and docker do.
stop_server() {
    local code=0
    kill -TERM "$pid"
    wait "$pid" || code=$?
    ((code == 0)) || fail "the server ended with $code"
}

# mongod PORT OPTION…: a real one, which answers when this returns.
mongod() {
    local port=$1 program
    shift
    program=$("$REPOSITORY/scripts/mongod.sh" find)
    mkdir -p "$WORK/mongod"
    "$program" "$@" --port "$port" --dbpath "$WORK/mongod" --nounixsocket --wiredTigerCacheSizeGB 0.25 >"$WORK/mongod.log" 2>&1 &
    wait_until "mongod listens" grep -q '"msg":"Waiting for connections"' "$WORK/mongod.log"
}

# unpack_tarball SUFFIX: the folder in an archive of a release, with the static binary.
unpack_tarball() {
    mkdir -p "$WORK/tarball"
    tar -xzf "$DIST"/chatkeep-*-linux"$1".tar.gz -C "$WORK/tarball" --strip-components=1
}

# A test is root: of this machine it may change its own folder only, and to install by cargo needs cargo's.
export HOME="$WORK" TMPDIR="$WORK"
mount --bind "$WORK" "$WORK"
if [[ $1 != source ]]; then mount -o remount,bind,ro /; fi
ip link set lo up
# shellcheck source=/dev/null
. "$here/$1.sh"
"$2"
