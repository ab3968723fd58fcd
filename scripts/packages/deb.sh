# The Debian package in Debian's smallest system, without systemd, apt and network.
# shellcheck shell=bash disable=SC2154

debian="$WORK/root"
package=$(compgen -G "$DIST/chatkeep_*.deb")
mkdir "$debian"
tar -xf "$CACHE/debian.tar" -C "$debian"
mount -t proc proc "$debian/proc"

in_debian() { (in_root "$debian" 0 / "$@"); }
as_chatkeep() { (in_root "$debian" "$(in_debian id -u chatkeep)" / "$@"); }
install_deb() {
    cp "$1" "$debian/tmp/chatkeep.deb"
    in_debian dpkg --force-confdef --force-confold -i /tmp/chatkeep.deb
}
# As the unit starts it.
start_service() {
    local command
    command=$(sed -n 's/^ExecStart=chatkeep //p' "$debian/usr/lib/systemd/system/chatkeep.service")
    # shellcheck disable=SC2086
    server "$debian" "$(in_debian id -u chatkeep)" /var/lib/chatkeep /usr/bin/chatkeep $command
}
# An earlier version: the same binary, with another configuration.
earlier() {
    dpkg-deb -R "$package" "$WORK/earlier"
    sed -i 's/^Version: .*/Version: 0.0.9-1/' "$WORK/earlier/DEBIAN/control"
    sed -i '1i # An earlier one.' "$WORK/earlier/etc/chatkeep/config.yaml"
    dpkg-deb -b "$WORK/earlier" "$WORK/earlier.deb" >/dev/null
    echo "$WORK/earlier.deb"
}
texts() { as_chatkeep chatkeep export --data /var/lib/chatkeep/data | jq -r .text; }

test_it_is_installed_runs_and_goes_without_a_trace_or_with_its_data() {
    local mode
    install_deb "$package"
    [[ $(in_debian chatkeep --version) == chatkeep\ * ]] || fail "no version"
    mode=$(in_debian stat -c '%U %G %a' /var/lib/chatkeep)
    [[ $mode == "chatkeep chatkeep 700" ]] || fail "the folder of the data is $mode"
    [[ $(in_debian getent passwd chatkeep) == *:/var/lib/chatkeep:*nologin ]] || fail "$(in_debian getent passwd chatkeep)"
    [[ -L $debian/etc/systemd/system/multi-user.target.wants/chatkeep.service ]] || fail "the service is not enabled"
    for file in man/man1/chatkeep.1.gz bash-completion/completions/chatkeep zsh/vendor-completions/_chatkeep \
        fish/vendor_completions.d/chatkeep.fish doc/chatkeep/{copyright,third-party.txt,README.md,docs/operations.md}; do
        # Debian's smallest system is told to leave out manuals and documents in some images.
        [[ -s $debian/usr/share/$file ]] || fail "no $file"
    done
    start_service
    [[ $(as_chatkeep chatkeep say ping --data /var/lib/chatkeep/data) == "pong!" ]] || fail "no answer"
    as_chatkeep chatkeep backup --data /var/lib/chatkeep/data /var/lib/chatkeep/backup | grep -q "Nothing is damaged"
    # Once more over itself, while it runs.
    install_deb "$package"
    stop_server
    in_debian dpkg -r chatkeep
    [[ ! -e $debian/usr/bin/chatkeep && -e $debian/etc/chatkeep/config.yaml ]] || fail "a removal keeps the configuration only"
    install_deb "$package"
    start_service
    [[ $(texts) == $'ping\npong!' ]] || fail "a removal took messages: $(texts)"
    stop_server
    echo "CHATKEEP_TOKEN=x" >"$debian/etc/chatkeep/env"
    in_debian dpkg -P chatkeep
    [[ ! -e $debian/var/lib/chatkeep/data && ! -e $debian/etc/chatkeep ]] || fail "a purge leaves data or configuration"
    [[ -e $debian/var/lib/chatkeep/backup ]] || fail "a purge takes a backup"
    rm -rf "$debian/var/lib/chatkeep/backup"
    # And when there is nothing else, nothing is left, however often it is said.
    install_deb "$package"
    in_debian dpkg -P chatkeep
    in_debian sh /tmp/postrm purge 2>/dev/null || true
    local left
    left=$(find "$debian" -xdev -name '*chatkeep*' -not -path "$debian/tmp/*" -not -path "$debian/proc/*")
    [[ -z $left ]] || fail "a purge leaves $left"
}

test_an_upgrade_keeps_the_messages_of_earlier_versions_and_a_changed_configuration() {
    local archive config session
    config="$debian/etc/chatkeep/config.yaml"
    install_deb "$(earlier)"
    # Of a folder of an earlier version nothing is removed for its age.
    sed -i 's/^  ttl_days: 30$/  ttl_days: 0/; s/^  retain_hours: 24$/  retain_hours: 87600/' "$config"
    for archive in "$REPOSITORY"/tests/data/*.tar.gz; do
        rm -rf "$debian/var/lib/chatkeep/data"
        tar -xzf "$archive" -C "$debian/var/lib/chatkeep"
        in_debian chown -R chatkeep:chatkeep /var/lib/chatkeep
        install_deb "$WORK/earlier.deb"
        install_deb "$package"
        grep -q '^  ttl_days: 0$' "$config" || fail "the configuration was replaced"
        [[ -e $config.dpkg-dist ]] || fail "the package's configuration is not beside it"
        start_service
        while IFS= read -r session; do
            curl -sfG "$url/api/chat/history" --data-urlencode "session_id=$session" -d limit=500 | jq -S '[.messages[] | del(.source)]' >"$WORK/found"
            jq -S --arg session "$session" '.sessions[$session]' "${archive%.tar.gz}.json" >"$WORK/wanted"
            diff "$WORK/wanted" "$WORK/found" || fail "$(basename "$archive"): the session $session is not as it was"
        done < <(jq -r '.sessions | keys[]' "${archive%.tar.gz}.json")
        stop_server
        in_debian chatkeep doctor --config /etc/chatkeep/config.yaml --data /var/lib/chatkeep/data | grep -q "Nothing is damaged"
    done
}

# write_messages: one after the other until $WORK/enough is there; those that were acknowledged are listed. Each is sent until it is.
write_messages() {
    local n
    for ((n = 0; ; n++)); do
        until curl -sf -o /dev/null "$1/api/chat/messages" --json "{\"role\": \"user\", \"text\": \"$n\", \"message_id\": \"$n\"}"; do sleep 0.05; done
        echo "$n" >>"$WORK/acknowledged"
        if [[ -e $WORK/enough ]]; then return; fi
    done
}
has_acknowledged() { (($(wc -l <"$WORK/acknowledged") >= $1)); }

test_messages_that_come_during_an_upgrade_are_there_once() {
    local writer before
    install_deb "$(earlier)"
    start_service
    write_messages "$url" &
    writer=$!
    wait_until "messages come" has_acknowledged 50
    install_deb "$package"
    before=$(wc -l <"$WORK/acknowledged")
    wait_until "the old one goes on" has_acknowledged $((before + 20))
    # What deb-systemd-invoke does at the end, where systemd runs.
    stop_server
    start_service
    before=$(wc -l <"$WORK/acknowledged")
    wait_until "the new one goes on" has_acknowledged $((before + 50))
    touch "$WORK/enough"
    wait "$writer"
    diff "$WORK/acknowledged" <(texts) || fail "messages are lost, twice, or out of order"
    stop_server
}

test_lintian_finds_no_error() {
    # The maintainer has no address of the network yet, and unsafe-libyaml is a translation of libyaml, which no library replaces.
    lintian --no-cfg --allow-root --fail-on error --tag-display-limit 0 \
        --suppress-tags bogus-mail-host,bogus-mail-host-in-debian-changelog,embedded-library "$package"
}
