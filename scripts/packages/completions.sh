# The man page and the completions, in the programs that read them. tests/packages.rs has tried bash's against the binary.
# shellcheck shell=bash

completions="$REPOSITORY/packaging/completions"

test_the_manual_is_well_formed() {
    local told
    told=$(LC_ALL=C.UTF-8 man --warnings -l "$REPOSITORY/packaging/chatkeep.1" 2>&1 >/dev/null)
    [[ -z $told ]] || fail "$told"
    told=$(mandoc -Tlint -Wwarning "$REPOSITORY/packaging/chatkeep.1") || fail "$told"
}

# offered_by_bash WORD…: for the last one, sorted.
offered_by_bash() {
    # shellcheck source=/dev/null
    (. "$completions/chatkeep.bash" && COMP_WORDS=("$@") && COMP_CWORD=$(($# - 1)) && _chatkeep && printf '%s\n' "${COMPREPLY[@]}" | sort)
}

lines=("" "-" "export --format " "import --from chat" "doctor --re")
for command in serve check-config doctor backup apply-ttl say stop history tail search sessions erase export import status verify \
    retry-dead-letters resend-to-mongo; do
    lines+=("$command --")
done

# as_bash OFFER: compares what another shell offers for each line. The short options are bash's no more than fish's.
as_bash() {
    local offer=$1 line words theirs ours
    for line in "${lines[@]}"; do
        IFS=' ' read -ra words <<<"$line"
        [[ $line != *" " && -n $line ]] || words+=("")
        ours=$(offered_by_bash chatkeep "${words[@]}")
        theirs=$("$offer" "chatkeep $line" | { grep -v '^-[hV]$' || true; } | sort)
        [[ $theirs == "$ours" ]] || fail "chatkeep $line: bash offers $ours, and $offer $theirs"
    done
}

in_fish() {
    # shellcheck disable=SC2016
    fish --no-config -c 'source "$argv[1]"; complete -C "$argv[2]"' "$completions/chatkeep.fish" "$1" | cut -f 1
}
test_fish_offers_what_bash_does() {
    fish -n "$completions/chatkeep.fish"
    as_bash in_fish
}

# A terminal in which zsh lists what it would complete.
in_zsh() {
    zsh -f "$here/offered.zsh" "$completions" "$1"
}
test_zsh_offers_what_bash_does() {
    zsh -n "$completions/_chatkeep"
    as_bash in_zsh
}
