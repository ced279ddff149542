# Sourced by setup.sh. Shows the stages of the installation and their times; on a terminal with a progress bar.

STAGES=4
BAR="####################...................."   # 20 characters of it make a bar

# stage NUMBER TITLE COMMAND...: run the command. On a terminal its output is shown when it has ended.
stage() {
    local number="$1" title="[$1/$STAGES] Installing $2" began=$SECONDS outcome output ticker
    shift 2
    INSTALLING_SINCE="${INSTALLING_SINCE:-$began}"
    if [ -t 1 ]; then
        output="$(mktemp)"
        tick "$title" "$number" 9>&- & ticker=$!
        ("$@") >"$output" 2>&1
        outcome=$?
        kill "$ticker" 2>/dev/null
        wait "$ticker" 2>/dev/null
        printf '\r\033[K'
        cat "$output"
        rm -f "$output"
    else
        echo "$title"
        ("$@")
        outcome=$?
    fi
    [ "$outcome" != 0 ] || echo "$title: done in $((SECONDS - began)) s"
    return "$outcome"
}

# Redraw the line of a stage each second, until the stage or the script ends.
tick() {
    local filled=$((($2 - 1) * 20 / STAGES)) began=$SECONDS
    while kill -0 $$ 2>/dev/null; do
        printf '\r\033[K%s [%s] %s s' "$1" "${BAR:$((20 - filled)):20}" "$((SECONDS - began))"
        sleep 1
    done
}

# Print how long all stages took, if there were any.
tell_stages() {
    [ -z "${INSTALLING_SINCE:-}" ] || echo "Installed in $((SECONDS - INSTALLING_SINCE)) s"
}
