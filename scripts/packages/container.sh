# The image that the Dockerfile describes, made from the static binary without Docker, and what compose.yaml runs beside it.
# shellcheck shell=bash disable=SC2154

image="$WORK/root"

# instruction NAME: what follows it in the Dockerfile, of the last stage.
instruction() { sed -n '/^FROM scratch$/,$p' "$REPOSITORY/Dockerfile" | sed -n "s/^$1 //p"; }
# words NAME: those of its exec form, one a line.
words() { instruction "$1" | sed 's/^.*CMD \[/[/' | jq -r '.[]'; }

# compose FILTER: of compose.yaml, checked by Docker's own program and with variables filled in.
compose() {
    # Debian's Python has the module that this program brings.
    docker-compose -f "$REPOSITORY/compose.yaml" config |
        /usr/bin/python3 -c 'import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)' | jq -r "$1"
}

# The root that the lines COPY describe, below which everything is read-only but the volume.
build() {
    local line from words sources target
    unpack_tarball ""
    mkdir -p "$WORK/out/state/chatkeep" "$image"
    cp "$WORK/tarball/chatkeep" "$WORK/tarball/third-party.txt" "$WORK/out"
    while IFS= read -r line; do
        from=$REPOSITORY
        chown=0:0
        if [[ $line == --from=build* ]]; then from=$WORK; fi
        if [[ $line =~ --chown=([0-9:]+) ]]; then chown=${BASH_REMATCH[1]}; fi
        read -ra words <<<"$(sed 's/--[a-z]*=[^ ]* //g' <<<"$line")"
        target="$image${words[-1]}"
        sources=("${words[@]:0:${#words[@]}-1}")
        for source in "${sources[@]}"; do
            if [[ -d $from/$source || $target == */ ]]; then mkdir -p "$target"; else mkdir -p "$(dirname "$target")"; fi
            # A folder's content is copied, as Docker does.
            if [[ -d $from/$source ]]; then cp -r "$from/$source/." "$target"; else cp "$from/$source" "$target"; fi
            if [[ -d $from/$source ]]; then chown -R "$chown" "$target"; fi
        done
    done < <(instruction COPY)
    printf '127.0.0.1 localhost mongo\n' >"$image/etc/hosts"
    printf 'nameserver 127.0.0.1\n' >"$image/etc/resolv.conf"
    mount --bind "$image" "$image"
    mkdir -p "$WORK/volume"
    cp -a "$image$(instruction VOLUME)/." "$WORK/volume"
    mount --bind "$WORK/volume" "$image$(instruction VOLUME)"
    mount -o remount,bind,ro "$image"
    user=$(instruction USER)
    user=${user%%:*}
}
container() { server "$image" "$user" "$(instruction WORKDIR)" $(words ENTRYPOINT) $(words CMD); }
in_container() { (in_root "$image" "$user" "$(instruction WORKDIR)" "$@"); }
health() { in_container $(words HEALTHCHECK); }

test_it_runs_without_rights_and_tells_whether_it_is_healthy() {
    local told=0
    build
    (in_root "$image" "$user" "$(instruction WORKDIR)" $(words ENTRYPOINT) $(words CMD)) >"$WORK/told" 2>&1 || told=$?
    ((told == 2)) && grep -q 'set a token' "$WORK/told" || fail "without a token: $told, $(cat "$WORK/told")"
    if health >/dev/null 2>&1; then fail "healthy before it runs"; fi
    # What is asked in a container has its environment.
    variables=(CHATKEEP_TOKEN=t0ken)
    container
    [[ $url == "http://0.0.0.0:$(instruction EXPOSE)" ]] || fail "$url"
    health >/dev/null || fail "not healthy: $(health 2>&1)"
    url="http://127.0.0.1:$(instruction EXPOSE)"
    [[ $(curl -s -o /dev/null -w '%{http_code}' "$url/api/chat" --json '{"message": "hi"}') == 401 ]] || fail "no token is asked for"
    # By any name.
    [[ $(curl -sf -H 'Host: chat.example.org' -H 'Authorization: Bearer t0ken' "$url/api/chat" --json '{"message": "ping"}' | jq -r .response) == "pong!" ]] || fail "no answer"
    [[ $(in_container /usr/bin/chatkeep history default --json | jq '.messages | length') == 2 ]] || fail "exec finds no server"
    stop_server
    if health >/dev/null 2>&1; then fail "healthy though it has ended"; fi
    container
    [[ $(in_container /usr/bin/chatkeep history default --json | jq '.messages | length') == 2 ]] || fail "lost by a restart"
    stop_server
}

test_with_mongodb_as_compose_runs_it() {
    local command check
    if compose . >"$WORK/told" 2>&1 || ! grep -q 'CHATKEEP_TOKEN=' "$WORK/told"; then fail "without a token: $(cat "$WORK/told")"; fi
    export CHATKEEP_TOKEN=t0ken
    mapfile -t command < <(compose '.services.mongo.command[1:][]')
    mapfile -t check < <(compose '.services.mongo.healthcheck.test[1:][]')
    build
    # The name of the service, here and in the container.
    mount --bind "$image/etc/hosts" /etc/hosts
    mongod 27017 "${command[@]}"
    export PATH="$CACHE/node_modules/.bin:$PATH"
    wait_until "the set has a primary" "${check[@]}"
    "${check[@]}" || fail "initiated twice"
    mapfile -t variables < <(compose '.services.chatkeep.environment | to_entries[] | "\(.key)=\(.value)"')
    container
    in_container /usr/bin/chatkeep verify --config /etc/chatkeep/config.yaml || fail "verify"
    stop_server
}

