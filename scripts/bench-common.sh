# For scripts/bench and scripts/bench-mongo: where they work, how they start servers, let wrk ask them, and report figures.
# Both source this in the folder of the repository.
# shellcheck shell=bash

readonly CONNECTIONS=32
target=${CARGO_TARGET_DIR:-target}

# needs TOOL: installs it if it is missing.
needs() {
    local as_root=()
    if command -v "$1" >/dev/null; then return; fi
    echo "$1 is missing: installing it" >&2
    if [ "$(id -u)" != 0 ]; then as_root=(sudo); fi
    "${as_root[@]}" apt-get install -y "$1" >&2
}
needs wrk
mkdir -p "$target"
# Next to the build and not in /tmp, which may be memory: fsync must mean a disk.
work=$(mktemp -d "$(realpath "$target")/bench-XXXXXX")
pids=()
mongod_pid=""

stop() {
    if ((${#pids[@]} > 0)); then
        kill -KILL "${pids[@]}" 2>/dev/null || true
        wait "${pids[@]}" 2>/dev/null || true
        pids=()
    fi
}
clean() {
    stop
    if [ -n "$mongod_pid" ]; then kill -KILL "$mongod_pid" 2>/dev/null || true; fi
    # It dies a moment later.
    while [ -n "$mongod_pid" ] && kill -0 "$mongod_pid" 2>/dev/null; do sleep 0.05; done
    rm -rf "$work"
}
trap clean EXIT

# mongod: a real one, its URI in $uri.
mongod() {
    local port
    if [ -n "$mongod_pid" ]; then return; fi
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    uri=$(scripts/mongod.sh start --dir "$work/mongod" --port "$port")
    mongod_pid=$(cat "$work/mongod/single/mongod.lock")
}

# start NAME COMMAND…: runs a server until it listens and has answered; its process is in $pid, its address in $url, and the
# milliseconds until then in $started_ms.
start() {
    local name=$1 began deadline=$((SECONDS + 60))
    shift
    began=$(date +%s%N)
    : >"$work/$name.stdout"
    "$@" >"$work/$name.stdout" 2>"$work/$name.stderr" &
    pid=$!
    pids+=("$pid")
    url=""
    while [ -z "$url" ]; do
        url=$(sed -n 's/^listening on \(http:[^ ]*\).*/\1/p' "$work/$name.stdout")
        if [ -z "$url" ] && { ! kill -0 "$pid" 2>/dev/null || ((SECONDS > deadline)); }; then
            echo "$1 does not listen:" >&2
            tail -n 20 "$work/$name.stderr" >&2
            exit 1
        fi
        if [ -z "$url" ]; then sleep 0.005; fi
    done
    curl -s -o "$work/answer" "$url/api/storage/status"
    started_ms=$((($(date +%s%N) - began) / 1000000))
}

# serve NAME FSYNC MONGO [COMMAND…]: starts chatkeep on empty data. The old data stay until the end: ext4 does not give the
# inodes of files that were just removed to new ones, and to pass over ten thousand of them makes each new transcript
# cost half a millisecond.
served=0
serve() {
    served=$((served + 1))
    printf 'mongo: {%s}\njournal: {fsync: %s}\n' "$3" "$2" >"$work/$served.yaml"
    local name=$1 command=("${@:4}")
    if ((${#command[@]} == 0)); then command=("$chatkeep"); fi
    start "$name" "${command[@]}" serve --config "$work/$served.yaml" --listen 127.0.0.1:0 --data "$work/data-$served"
}

# memory PID: resident, in MiB.
memory() {
    awk '/^VmRSS:/ { printf "%.2f", $2 / 1024 }' "/proc/$1/status"
}

# User and system time of process PID so far, in hundredths of a second.
ticks() {
    sed 's/^.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'
}

# ask SECONDS URL CONNECTIONS [ARGUMENT…]: what wrk says, `req/s p50 p99`, in $result; the arguments are those of bench.lua.
ask() {
    local seconds=$1 of=$2 connections=$3
    shift 3
    wrk -t1 -c"$connections" -d"${seconds}s" --timeout 20s -s scripts/bench.lua "$of" -- "$@" >"$work/wrk"
    result=$(sed -n 's/^WRK //p' "$work/wrk")
    if [ "${result##* }" != 0 ] || [ "${result%% *}" = 0 ] || grep -qE 'Non-2xx|Socket errors' "$work/wrk"; then
        echo "the run had errors, its figures mean nothing:" >&2
        cat "$work/wrk" >&2
        exit 1
    fi
    result=${result% *}
}

# load NAME SECONDS PID URL [CONNECTIONS [ARGUMENT…]]: one measurement, kept as a line `req/s p50 p99 us` in $work/NAME; the
# last is the server's processor time for a request, in microseconds.
load() {
    local name=$1 seconds=$2 process=$3 of=$4 before
    shift 4
    before=$(ticks "$process")
    ask "$seconds" "$of" "${@:-$CONNECTIONS}"
    awk -v r="$result" -v t="$(($(ticks "$process") - before))" -v s="$seconds" \
        'BEGIN { split(r, v, " "); print r, t * 10000 / (v[1] * s) }' >>"$work/$name"
}

middle() {
    sort -g | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'
}
# median NAME COLUMN: of the lines in $work/NAME.
median() {
    cut -d' ' -f"$2" "$work/$1" | middle
}
calculate() {
    awk "BEGIN { print $1 }"
}

# report ROW WHAT OP GOAL FIGURE UNIT [RATIO PEER ITS-FIGURE]: a line as tests/support/goal.rs prints it. OP is `>=` or `<=`,
# or nothing where there is no goal.
report() {
    local IFS=$'\t'
    echo "RESULT"$'\t'"$*"
}
# beside ROW WHAT OP GOAL NAME COLUMN UNIT PEER OTHER: that column's median of NAME as a ratio to that of OTHER.
beside() {
    local figure other
    figure=$(median "$5" "$6")
    other=$(median "$9" "$6")
    report "$1" "$2" "$3" "$4" "$figure" "$7" "$(calculate "$figure / $other")" "$8" "$other"
}

# table [ROW…]: the lines in $work/results of these rows, or of all, as a table in Markdown.
table() {
    local commit cpu
    commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
    if [ -n "$(git status --porcelain 2>/dev/null)" ]; then commit+=" with changes"; fi
    cpu=$(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)
    echo "Machine: $(nproc) x ${cpu:-$(uname -m)}, $(uname -sr); commit $commit; $(date -u +%F)."
    if [ "${BENCH_DIVIDE:-1}" != 1 ]; then echo "Sizes are divided by $BENCH_DIVIDE: the figures mean nothing."; fi
    echo
    sort -s -t$'\t' -k2,2V "$work/results" | awk -F'\t' -v rows=" $* " '
        function figure(v) {
            if (v < 10) return sprintf("%.2f", v)
            if (v < 100) return sprintf("%.1f", v)
            if (v < 10000) return sprintf("%.0f", v)
            return sprintf("%d %03d", v / 1000, v % 1000)
        }
        function row(a, b, c, d, e, f) { printf "| %-6s | %-52s | %-46s | %-42s | %6s | %-6s |\n", a, b, c, d, e, f }
        BEGIN {
            row("", "what", "goal", "measured", "ratio", "")
            print "|---|---|---|---|---|---|"
        }
        rows == "  " || index(rows, " " $2 " ") {
            unit = $7 == "" ? "" : " " $7
            value = $8 == "" ? $6 : $8
            ratio = $8 != "" ? $8 : ($5 > 0 ? $6 / $5 : "")
            goal = $4 == "" ? "" : $4 " " ($5 < 1 ? sprintf("%.2f", $5) : $5 < 10000 ? $5 : figure($5)) ($8 == "" ? unit : " of ")
            is_met = $4 == "" ? "" : ($4 == ">=" ? value >= $5 : value <= $5) ? "met" : "missed"
            row($2, $3, goal ($8 == "" ? "" : ($4 == "" ? "beside " : "") $9), figure($6) unit ($8 == "" ? "" : " beside " figure($10)),
                ratio == "" ? "" : figure(ratio), is_met)
        }'
}
