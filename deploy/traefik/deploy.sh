#!/usr/bin/env bash
# Blue and green in containers behind Traefik. Usage: RERANK_IMAGE=registry/reranking:2 ./deploy.sh [deploy|rollback|status]
#
#   deploy    bring the idle color up with that image, wait until it answers through Traefik, take the other one down
#   rollback  the same with the image that the idle color had last
#
# REPLICAS (1), RERANK_PORT (8080), PATIENCE_S (900), and RERANK_URL where Traefik is not on this machine.
# State is .colors beside this file: two names and two images; and .colors.env, the key of events, which is made once.
# Safe to run again after it was interrupted.
set -euo pipefail
cd "$(dirname "$0")"

REPLICAS="${REPLICAS:-1}" PATIENCE_S="${PATIENCE_S:-900}"
URL="${RERANK_URL:-http://127.0.0.1:${RERANK_PORT:-8080}}"
export no_proxy="127.0.0.1,localhost,::1,${no_proxy:-${NO_PROXY:-}}"   # curl would ask a proxy for this machine, too
STATE="${STATE_FILE:-.colors}"
export EVENTS_FILE="$STATE.env"   # for both compose files
SURE=5   # answers of the new color that are wanted; replicas take turns

say() { echo "$(date -u +%H:%M:%S) $*"; }
fail() { echo "deploy.sh: $*" >&2; exit 1; }

color() { docker compose -p "reranking-$1" -f color.compose.yaml "${@:2}"; }

read_state() {
    active="" blue="" green=""
    [ -e "$STATE" ] || return 0
    local name value
    while IFS== read -r name value; do
        case "$name" in
            active) active="$value" ;; blue) blue="$value" ;; green) green="$value" ;;
            *) fail "$STATE: $name is none of active, blue, green" ;;
        esac
    done < "$STATE"
    case "$active" in blue|green|"") ;; *) fail "$STATE: $active is no color" ;; esac
}

# Whole or not at all: written aside, then renamed.
write_state() {
    printf 'active=%s\nblue=%s\ngreen=%s\n' "$active" "$blue" "$green" > "$STATE.new"
    mv -f "$STATE.new" "$STATE"
}

# The secret by which the pusher knows the colors' events. Made once: running containers keep the one they have.
make_events_key() {
    [ ! -e "$EVENTS_FILE" ] || return 0
    (
        umask 077
        key="$(od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n')"
        printf 'RERANK_EVENTS_KEY=%s\n' "$key" > "$EVENTS_FILE.new"
    )
    mv -f "$EVENTS_FILE.new" "$EVENTS_FILE"
}

# Through the proxy, as clients do. Both colors answer meanwhile, so it is asked until the new one was heard often enough.
wait_for_answers() {
    local wanted="$1" heard=0 ends=$((SECONDS + PATIENCE_S))
    while [ "$heard" -lt "$SURE" ]; do
        [ "$SECONDS" -lt "$ends" ] || return 1
        if curl -fsS -m 5 "$URL/deployment_color" 2>/dev/null | grep -q "\"color\":\"$wanted\""; then
            heard=$((heard + 1))
        else
            sleep 0.1
        fi
    done
}

# For 3 s its containers say that they are not ready, and serve. Traefik asks every second, and sends them nothing more; else it
# would find out by requests to addresses where nobody is, at 3 s each (dialTimeout in traefik.yaml).
leave() {
    local number containers
    containers="$(color "$1" ps -q webapp | wc -l || true)"
    for number in $(seq "$containers"); do
        color "$1" exec -T --index "$number" webapp reranking drain --notice-s 3 --no-stop >/dev/null 2>&1 &
    done
    wait
}

deploy() {
    local image="$1" next=green old="$active"
    [ "$active" = green ] && next=blue
    [ -n "$image" ] || fail "set RERANK_IMAGE to the image to deploy"

    make_events_key
    say "the proxy"
    docker compose -f proxy.compose.yaml up -d --wait traefik

    # What an interrupted run left of it; clients are at $old.
    COLOR="$next" RERANK_IMAGE="$image" color "$next" down --remove-orphans

    say "$next comes up with $image, $REPLICAS times"
    if ! COLOR="$next" RERANK_IMAGE="$image" color "$next" up -d --wait --wait-timeout "$PATIENCE_S" --scale "webapp=$REPLICAS" \
        || ! wait_for_answers "$next"; then
        say "$next does not answer: it is taken down, ${old:-nothing} serves as before"
        COLOR="$next" RERANK_IMAGE="$image" color "$next" down --remove-orphans
        fail "$image was refused"
    fi

    # From here on an interrupted run leaves the old color up, and the next run takes it down.
    active="$next"
    printf -v "$next" '%s' "$image"
    write_state
    # Only now: no request needs it, and browsers connect again by themselves.
    PUSHER_IMAGE="$image" docker compose -f proxy.compose.yaml up -d --wait --wait-timeout 60 pusher \
        || echo "deploy.sh: the pusher of $image does not start: requests are served, and nobody can follow them" >&2
    if [ -n "$old" ]; then
        say "$old finishes what it has and goes"
        leave "$old"
        COLOR="$old" RERANK_IMAGE="${!old:-$image}" color "$old" down --remove-orphans
    fi
    say "$next serves $image"
}

exec 9> "$STATE.lock"
flock -n 9 || fail "another deploy runs"
read_state
case "${1:-deploy}" in
    deploy) deploy "${RERANK_IMAGE:-}" ;;
    rollback)
        [ -n "$active" ] || fail "nothing was deployed yet"
        idle=green; [ "$active" = green ] && idle=blue
        [ -n "${!idle}" ] || fail "there is no release before this one"
        deploy "${!idle}"
        ;;
    status) echo "active=$active blue=$blue green=$green" ;;
    *) fail "usage: deploy.sh [deploy|rollback|status]" ;;
esac
