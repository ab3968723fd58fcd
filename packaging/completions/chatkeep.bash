# Completion of chatkeep's commands and options in bash. As /usr/share/bash-completion/completions/chatkeep it is loaded when
# it is needed; otherwise source it.

_chatkeep() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command="" suggest="" n
    # bash splits --format=F at the equals sign.
    if [[ $word == "=" ]]; then
        word=""
    elif [[ $before == "=" ]]; then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    COMPREPLY=()
    for ((n = 1; n < COMP_CWORD; n++)); do
        case ${COMP_WORDS[n]} in
            --) return ;;
            --config | --listen | --data | --session | --role | --limit | --search | --since | --format | --from | --as | --time)
                if [[ ${COMP_WORDS[n + 1]} == "=" ]]; then ((n++)); fi
                ((n++))
                ;;
            -*) ;;
            *) command=${command:-${COMP_WORDS[n]}} ;;
        esac
    done
    case $before in
        --config) suggest=files ;;
        --data) suggest=folders ;;
        --role) suggest="user assistant system tool" ;;
        --format) suggest="ndjson markdown openai" ;;
        --from) suggest="chatkeep python openai chatgpt openwebui librechat langchain" ;;
        --listen | --session | --limit | --search | --since | --as | --time) return ;;
        *)
            case $command:$word in
                *:-*) suggest="--config --listen --data --help --version" ;;
                :*) suggest="serve check-config doctor backup apply-ttl help say stop history tail search sessions erase
                    export import status verify retry-dead-letters resend-to-mongo" ;;
                backup:*) suggest=folders ;;
                import:*) suggest=files ;;
            esac
            if [[ $word == -* ]]; then
                case $command in
                    doctor) suggest+=" --repair --json" ;;
                    say) suggest+=" --session --role --json" ;;
                    history | tail) suggest+=" --limit --json" ;;
                    search) suggest+=" --session --limit --json" ;;
                    sessions) suggest+=" --search --limit --json" ;;
                    erase) suggest+=" --yes --json" ;;
                    export) suggest+=" --session --format" ;;
                    import) suggest+=" --from --as --time --json" ;;
                    verify) suggest+=" --session --json" ;;
                    resend-to-mongo) suggest+=" --since --json" ;;
                    backup | stop | status | retry-dead-letters) suggest+=" --json" ;;
                esac
            fi
            ;;
    esac
    case $suggest in
        files | folders)
            compopt -o filenames 2>/dev/null
            local kind=-f
            if [[ $suggest == folders ]]; then kind=-d; fi
            mapfile -t COMPREPLY < <(compgen "$kind" -- "$word")
            ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$suggest" -- "$word") ;;
    esac
}

complete -F _chatkeep chatkeep
