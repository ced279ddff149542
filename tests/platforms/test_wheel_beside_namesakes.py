"""The wheels in an environment where others' packages have, or had, the names of ours. PyPI has a `pusher`."""

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaged import Installed, build_wheels, environment, smoke

from webapp import __version__

pytestmark = pytest.mark.platforms

ROOT = Path(__file__).resolve().parents[2]
PUSHER = "pusher==3.3.4"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    return build_wheels(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """PyPI's `pusher` with what it needs: a folder of wheels."""
    folder = tmp_path_factory.mktemp("stranger")
    pins = ["--constraint", ROOT / "constraints.txt"]
    pip(sys.executable, "download", "--only-binary", ":all:", *pins, "--dest", folder, PUSHER)
    return folder


@pytest.fixture
def python(tmp_path):
    """The Python of an environment that is empty."""
    venv.create(tmp_path / "env", symlinks=True)
    return tmp_path / "env" / "bin" / "python"


def pip(python, *arguments):
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def add_ours(python, wheels):
    """Install the wheels, with links to what they need: after this nothing else may be installed or replaced."""
    environment(python.parents[1], wheels)


def add_theirs(python, stranger):
    pip(python, "install", "--no-index", "--find-links", stranger, PUSHER)


def theirs(python):
    """Return the key in what PyPI's `pusher` signs: its code runs."""
    sign = "pusher.Pusher(app_id='1', key='theirs', secret='s').authenticate('private-bees', '1.1')"
    done = subprocess.run(
        [python, "-c", f"import pusher; print({sign}['auth'])"], capture_output=True, text=True, check=False, cwd="/"
    )
    return done.stdout.partition(":")[0] or done.stderr.splitlines()[-1]


def names(python):
    """Return the top-level names that our distributions put into an environment, but for what pip keeps about them."""
    (place,) = python.parents[1].glob("lib/python*/site-packages")
    records = [record.read_text().splitlines() for record in place.glob("reranking*.dist-info/RECORD")]
    tops = {line.partition("/")[0] for lines in records for line in lines if not line.startswith("..")}
    return {name for name in tops if not name.endswith(".dist-info")}


def serves(python):
    """Whether the installed service starts, and answers all that `scripts/smoke` asks."""
    with (
        tempfile.TemporaryDirectory(prefix="wheel") as folder,  # sockets in it need a short path
        Installed(python.with_name("reranking"), Path(folder), engine="stub") as stack,
    ):
        seen = smoke(stack.url, python)
    return seen.returncode == 0 or seen.stdout


def version(python):
    done = subprocess.run([python.with_name("reranking"), "--version"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def three_names(wheel, folder):
    """Make a wheel as it was before `reranking_server`: the same packages, at the top of site-packages."""
    old = folder / f"reranking-0.1.0-{wheel.name.split('-', 2)[2]}"
    with zipfile.ZipFile(wheel) as now, zipfile.ZipFile(old, "w") as then:
        for name in now.namelist():
            text = now.read(name)
            if name.startswith(("reranking_server/webapp/", "reranking_server/pusher/", "reranking_server/contracts/")):
                then.writestr(name.partition("/")[2], text)
            elif name.endswith(("/METADATA", "/WHEEL")):
                info = name.replace(__version__, "0.1.0")
                then.writestr(info, text.replace(f"\nVersion: {__version__}".encode(), b"\nVersion: 0.1.0"))
        then.writestr("reranking-0.1.0.dist-info/entry_points.txt", "[console_scripts]\nreranking = webapp.cli:main\n")
        then.writestr("reranking-0.1.0.dist-info/RECORD", "")
    return old


def test_it_serves_beside_the_pusher_of_pypi_that_was_there_before_and_leaves_it_when_it_goes(python, wheels, stranger):
    add_theirs(python, stranger)
    add_ours(python, wheels)
    assert names(python) == {"reranking_server", "reranking_client"}
    assert theirs(python) == "theirs"
    assert version(python) == __version__
    assert serves(python) is True
    pip(python, "uninstall", "--yes", "reranking", "reranking-client")
    assert theirs(python) == "theirs"


def test_the_pusher_of_pypi_may_come_after_it_and_go_again(python, wheels, stranger):
    pip(python, "install", "--no-deps", "--no-index", *wheels)
    add_theirs(python, stranger)
    add_ours(python, wheels)
    assert theirs(python) == "theirs"
    assert version(python) == __version__
    pip(python, "uninstall", "--yes", "pusher")
    assert version(python) == __version__


def test_an_upgrade_from_the_wheel_with_three_names_frees_them(python, wheels, stranger, tmp_path):
    service, client = wheels
    add_theirs(python, stranger)
    pip(python, "install", "--no-deps", "--no-index", three_names(service, tmp_path))
    assert names(python) == {"webapp", "pusher", "contracts"}
    assert theirs(python) != "theirs", "the old wheel has replaced files of it"
    pip(python, "install", "--no-deps", "--no-index", "--upgrade", service, client)
    assert names(python) == {"reranking_server", "reranking_client"}
    pip(python, "install", "--no-deps", "--no-index", "--find-links", stranger, "--force-reinstall", PUSHER)
    add_ours(python, wheels)
    assert theirs(python) == "theirs"
    assert version(python) == __version__
