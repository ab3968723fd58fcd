# The source as cargo installs and packs it. The build is that of scripts/package, so that it takes no time.
# shellcheck shell=bash

# That of who calls.
HOME=$(getent passwd "$(id -u)" | cut -d : -f 6)

test_cargo_installs_it_from_the_folder() {
    cd "$REPOSITORY"
    cargo install --quiet --locked --offline --path . --root "$WORK" --target-dir "${CARGO_TARGET_DIR:-target}"
    mkdir "$WORK/empty"
    cd "$WORK/empty"
    "$WORK/bin/chatkeep" --listen 127.0.0.1:0 >"$WORK/stdout" 2>"$WORK/server.log" &
    pid=$!
    wait_until "the server listens" grep -q '^listening on ' "$WORK/stdout"
    [[ $("$WORK/bin/chatkeep" say ping) == "pong!" ]] || fail "no answer"
    stop_server
}

test_a_packed_source_has_what_a_build_needs_and_no_more() {
    local list=$WORK/list
    cd "$REPOSITORY"
    cargo package --quiet --locked --offline --allow-dirty --no-verify --list >"$list"
    for file in Cargo.toml Cargo.lock build.rs build/console.rs src/main.rs src/console/index.html config.yaml LICENSE-MIT LICENSE-APACHE README.md; do
        grep -qx "$file" "$list" || fail "no $file"
    done
    if grep -E '^(target|\.cache|\.ci|data|\.env|.*node_modules|.*__pycache__)(/|$)' "$list"; then fail "more than it should"; fi
}
