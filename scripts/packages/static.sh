# The static binaries in a root that holds nothing else but /etc/hosts, /etc/resolv.conf and a folder for the data.
# shellcheck shell=bash disable=SC2154

empty="$WORK/root"
user=65532

prepare() {
    unpack_tarball "$1"
    mkdir -p "$empty/etc" "$empty/data"
    install -m 755 "$WORK/tarball/chatkeep" "$empty/chatkeep"
    printf '127.0.0.1 localhost database.test\n' >"$empty/etc/hosts"
    # Nobody answers there.
    printf 'nameserver 127.0.0.1\n' >"$empty/etc/resolv.conf"
    chown "$user:$user" "$empty/data"
}
chatkeep() { (in_root "$empty" "$user" /data /chatkeep "$@" --data /data); }

records_and_reads() {
    [[ $(chatkeep say ping) == "pong!" ]] || fail "no answer"
    [[ $(curl -sf "$url/api/chat/history" | jq -c '[.messages[].text]') == '["ping","pong!"]' ]] || fail "not in the history"
    stop_server
    server "$empty" "$user" /data /chatkeep --data /data
    [[ $(chatkeep history default --json | jq -c '[.messages[].text]') == '["ping","pong!"]' ]] || fail "lost by a restart"
}

test_the_archives_are_whole() {
    (cd "$DIST" && sha256sum --check --quiet SHA256SUMS)
    for suffix in "" -embedded; do
        rm -rf "$WORK/tarball"
        unpack_tarball "$suffix"
        [[ $(ldd "$WORK/tarball/chatkeep" 2>&1) == *static* ]] || fail "$(ldd "$WORK/tarball/chatkeep")"
        for file in README.md LICENSE-MIT LICENSE-APACHE third-party.txt config.yaml docs/operations.md packaging/systemd/chatkeep.service; do
            [[ -s $WORK/tarball/$file ]] || fail "no $file"
        done
    done
}

test_the_embedded_one_records_and_reads() {
    prepare -embedded
    server "$empty" "$user" /data /chatkeep --data /data --listen 127.0.0.1:8000
    records_and_reads
    stop_server
}

test_the_full_one_finds_mongodb_by_a_name_of_the_hosts_file() {
    prepare ""
    mongod 27017
    cat >"$empty/data/config.yaml" <<'YAML'
mongo: {enabled: true, uri: "mongodb://database.test:27017"}
YAML
    server "$empty" "$user" /data /chatkeep --data /data --listen 127.0.0.1:8000
    records_and_reads
    chatkeep verify || fail "verify"
    stop_server
}
