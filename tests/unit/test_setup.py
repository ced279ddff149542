"""Run `scripts/setup.sh` on machines that lack something: a copy, among stand-ins for the system's programs."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

REAL = "bash basename cat cp dirname env find mkdir mv readlink rm sha256sum stat timeout touch flock chmod ls"

EVERYTHING = "python3 python3-venv nginx libnginx-mod-stream gcc libc6-dev"

PYTHON = """
case "$*" in
    -c*venv*) [ -e "$TOP/has-venv" ] || exit 1 ;;
    -c*) exit 0 ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *) echo "python $*" >> "$TOP/log" ;;
esac
"""

APT = """
echo "apt-get $*" >> "$TOP/log"
[ "$1" = install ] || exit 0
[ ! -e "$TOP/apt-fails" ] || exit 100
[ ! -e "$TOP/apt-interrupts" ] || { ls "$TOP/sbin" >> "$TOP/log"; kill -INT 0; }
for package; do
    case "$package" in
        python3) cp "$TOP/kept/python3" "$TOP/bin" ;;
        python3*-venv) touch "$TOP/has-venv" ;;
        nginx|gcc) cp "$TOP/kept/nothing" "$TOP/bin/$package" ;;
    esac
done
"""


class Machine:
    """A bare one: a clone, and no more of a system than every Debian has."""

    def __init__(self, top):
        self.top, self.clone = top, top / "clone"
        for name in (
            "bin",
            "kept",
            "clone/scripts",
            "clone/webapp/engine/native",
            "clone/pusher/dashboard",
            "clone/client",
        ):
            (top / name).mkdir(parents=True)
        for name in REAL.split():
            (top / "bin" / name).symlink_to(shutil.which(name))
        for name in (
            "constraints.txt",
            "pyproject.toml",
            "client/pyproject.toml",
            "setup.py",
            "pusher/dashboard/package-lock.json",
        ):
            shutil.copy(ROOT / name, self.clone / name)
        (self.clone / "webapp/engine/native/border.c").touch()
        for script in (ROOT / "scripts").glob("*.sh"):
            text = script.read_text().replace("/usr/sbin", f"{top}/sbin").replace("/usr/bin", f"{top}/bin")
            (self.clone / "scripts" / script.name).write_text(text)
        self.program(
            "serve", 'set -u\nsource "$(dirname "$0")/setup.sh" torch,redis\necho serving', self.clone / "scripts"
        )
        self.program("id", '[ "$1" = -un ] && echo "$USER_NAME" || echo "$USER_NUMBER"')
        self.program("npm", "mkdir -p node_modules")
        self.program("python3", PYTHON, top / "kept")
        self.program("nothing", "exit 0", top / "kept")

    def program(self, name, does, folder=None):
        file = (folder or self.top / "bin") / name
        file.write_text(f"#!{shutil.which('bash')}\n{does}\n")
        file.chmod(0o755)

    def has(self, *packages):
        for package in packages:
            if package == "python3-venv":
                (self.top / "has-venv").touch()
            else:
                self.program(package, PYTHON if package == "python3" else "exit 0")

    def serve(self, user="alice", number=1000, as_user=None, **variables):
        """What it says, and its exit code."""
        known = {"PATH": f"{self.top}/bin", "TOP": str(self.top), "USER_NAME": user, "USER_NUMBER": str(number)}
        outcome = subprocess.run(
            [self.clone / "scripts" / "serve"],
            env=known | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            start_new_session=True,
            **({"user": as_user, "group": as_user, "extra_groups": []} if as_user else {}),
        )
        return outcome.stdout, outcome.returncode

    def as_root(self, **variables):
        return self.serve("root", 0, **variables)

    @property
    def log(self):
        """What was asked of apt-get, Python and the like."""
        file = self.top / "log"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def machine():
    folder = Path(tempfile.mkdtemp(prefix="reranking-"))  # which other users can reach; pytest's own they can't
    folder.chmod(0o755)
    yield Machine(folder)
    shutil.rmtree(folder)


def installed(machine):
    """The packages of each call of `apt-get install`."""
    return [
        " ".join(word for word in line.split()[2:] if not word.startswith("-"))
        for line in machine.log
        if line.startswith("apt-get install")
    ]


def test_root_gets_all_that_a_bare_debian_lacks_at_once(machine):
    machine.has("apt-get")
    machine.program("apt-get", APT)
    said, code = machine.as_root()
    assert code == 0, said
    assert installed(machine) == [EVERYTHING]
    assert said.endswith("serving\n")


def test_an_ordinary_user_is_told_all_that_is_missing_in_one_command(machine):
    machine.has("apt-get", "sudo")
    said, code = machine.serve()
    assert code == 1
    assert said.count("\n") == 1
    assert f"sudo apt-get install {EVERYTHING}\n" in said
    assert machine.log == []


def test_nothing_is_named_that_is_there(machine):
    machine.has("apt-get", "sudo", "python3", "gcc")
    said, _ = machine.serve()
    assert "sudo apt-get install python3-venv nginx libnginx-mod-stream\n" in said


def test_where_there_is_no_sudo_none_is_named(machine):
    machine.has("apt-get", "python3", "python3-venv", "gcc")
    assert "run as root: apt-get install nginx libnginx-mod-stream\n" in machine.serve()[0]


@pytest.mark.parametrize("user", ["serve", "as_root"])
def test_where_there_is_no_apt_it_describes_what_is_needed(machine, user):
    machine.has("gcc")
    said, code = getattr(machine, user)()
    assert code == 1
    assert "apt-get install" not in said
    for words in ("Python 3.11 or newer", "venv", "nginx"):
        assert words in said
    assert "compiler" not in said


def test_a_compiler_can_be_done_without(machine):
    machine.has("apt-get", "sudo", "python3", "python3-venv", "nginx")
    said, code = machine.serve()
    assert code == 0, said
    assert "sudo apt-get install gcc libc6-dev" in said
    assert said.endswith("serving\n")


@pytest.mark.parametrize("user", ["serve", "as_root"])
def test_a_python_that_is_too_old_is_named_beside_the_packages(machine, user):
    machine.has("apt-get", "sudo")
    machine.program("python3", "exit 1")
    said, code = getattr(machine, user)()
    assert code == 1
    assert "Python 3.11 or newer is needed" in said
    assert "nginx libnginx-mod-stream gcc libc6-dev" in said
    assert machine.log == [], "an older Python's packages are of no use"


def test_what_the_system_can_not_install_is_named(machine):
    machine.program("apt-get", APT)
    (machine.top / "apt-fails").touch()
    said, code = machine.as_root()
    assert code == 1
    assert f"apt-get install {EVERYTHING}" in said
    assert not (machine.clone / ".venv" / "bin").exists()


def test_a_second_start_asks_nothing_of_the_system(machine):
    machine.has("python3", "python3-venv", "nginx", "gcc")
    assert machine.serve()[1] == 0
    asked = machine.log
    machine.has("apt-get")
    (machine.top / "bin" / "gcc").unlink()
    said, code = machine.serve()
    assert (said, code) == ("serving\n", 0)
    assert machine.log == asked


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two users")


@needs_root
@pytest.mark.parametrize("foreign", ["", ".venv", "var", "reranking.egg-info", "pusher/dashboard/node_modules"])
def test_another_user_s_clone_is_refused_in_words(machine, foreign):
    machine.has("python3", "python3-venv", "nginx", "gcc")
    (machine.clone / foreign).mkdir(exist_ok=True)
    for path in [machine.top, *machine.top.rglob("*")]:
        if foreign and path != machine.clone / foreign:
            os.chown(path, 65534, 65534, follow_symlinks=False)
    said, code = machine.serve("nobody", 65534, as_user=65534)
    assert code == 1
    assert "flock" not in said
    assert f"serve: {machine.clone / foreign} belongs to root, and you are nobody" in said
    assert "clone of your own" in said
    assert f"sudo chown -R nobody '{machine.clone}'" in said


@needs_root
def test_another_user_s_clone_serves_where_nothing_is_to_be_installed(machine):
    machine.has("python3", "python3-venv", "nginx", "gcc")
    assert machine.as_root()[1] == 0
    assert machine.serve("nobody", 65534, as_user=65534) == ("serving\n", 0)


def test_an_interrupted_installation_ends_and_lets_other_packages_services_start_again(machine):
    machine.has("apt-get")
    machine.program("apt-get", APT)
    (machine.top / "sbin").mkdir()
    (machine.top / "apt-interrupts").touch()
    said, code = machine.as_root()
    assert code == -signal.SIGINT
    assert "serving" not in said
    assert "policy-rc.d" in machine.log, "no service was started meanwhile"
    assert list((machine.top / "sbin").iterdir()) == []
