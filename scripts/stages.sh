# Sourced by setup.sh. Stages of the installation: what runs, for how long, and how long it took; on a terminal with a bar.

STAGES=4
BAR="####################...................."   # a window of 20 in it is a bar

# stage NUMBER WHAT COMMAND...: run the command. What it says on a terminal is shown when it has ended.
stage() {
    local number="$1" title="[$1/$STAGES] Installing $2" began=$SECONDS outcome said ticker
    shift 2
    INSTALLING_SINCE="${INSTALLING_SINCE:-$began}"
    if [ -t 1 ]; then
        said="$(mktemp)"
        tick "$title" "$number" 9>&- & ticker=$!
        ("$@") >"$said" 2>&1
        outcome=$?
        kill "$ticker" 2>/dev/null
        wait "$ticker" 2>/dev/null
        printf '\r\033[K'
        cat "$said"
        rm -f "$said"
    else
        echo "$title"
        ("$@")
        outcome=$?
    fi
    [ "$outcome" != 0 ] || echo "$title: done in $((SECONDS - began)) s"
    return "$outcome"
}

# Redraw the line of a stage each second, until it is ended or the script is gone.
tick() {
    local filled=$((($2 - 1) * 20 / STAGES)) began=$SECONDS
    while kill -0 $$ 2>/dev/null; do
        printf '\r\033[K%s [%s] %s s' "$1" "${BAR:$((20 - filled)):20}" "$((SECONDS - began))"
        sleep 1
    done
}

# Say how long all stages took, if there were any.
tell_stages() {
    [ -z "${INSTALLING_SINCE:-}" ] || echo "Installed in $((SECONDS - INSTALLING_SINCE)) s"
}
