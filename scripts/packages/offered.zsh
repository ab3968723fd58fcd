# offered.zsh FOLDER LINE: what the completion in FOLDER offers at the end of LINE, one a line.
zmodload zsh/zpty
zpty offered zsh -f -i
zpty -w offered "PROMPT='' PROMPT2=; unsetopt zle_bracketed_paste prompt_cr prompt_sp; stty cols 200 rows 100; fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -D"
# Each match of compadd is printed between marks, and nothing is completed.
zpty -w offered 'compadd() { local -a got; builtin compadd -O got "$@"; print -r -- ; for one in $got; do print -r -- "<<$one>>"; done; return 0 }; ended() { print -r -- "<END>" }; compprefuncs=(); comppostfuncs=(ended); print -r -- "<READY""2>"'
local text=
zpty -r -m offered text '*<READY2>*'
zpty -w -n offered "$2"$'\t'
zpty -r -m offered text '*<END>*'
print -r -- $text | sed -n 's/^.*<<\(.*\)>>.*$/\1/p' | sort -u
zpty -d offered
