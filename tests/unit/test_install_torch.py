"""Where `scripts/install-torch` takes torch from: pip itself, small indexes on loopback."""

import os
import re
import socket
import subprocess
import sys
import threading
import venv
import zipfile
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pip
import pytest
from running import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = ROOT / "scripts" / "install-torch"

CPU, CUDA = "2.13.0+cpu", "2.13.0"


def wheel(folder, version, name="torch", needs=""):
    """Make one that holds nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    if needs:
        metadata += f"Requires-Dist: {needs}\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        info = f"{name}-{version}.dist-info"
        file.writestr(f"{info}/METADATA", metadata)
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


class Quiet(SimpleHTTPRequestHandler):
    """An index is a folder of folders: its listings are what pip reads."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()


@contextmanager
def index(folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    server.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def url_of(server):
    return f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture(scope="module")
def package_index(tmp_path_factory):
    """It has the CUDA build alone, and what that brings."""
    folder = tmp_path_factory.mktemp("packages")
    wheel(folder / "torch", CUDA, needs="nvidia-cublas")
    wheel(folder / "nvidia-cublas", "13.0", name="nvidia_cublas")
    with index(folder) as server:
        yield url_of(server)


@pytest.fixture(scope="module")
def cpu_index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cpu")
    wheel(folder / "torch", CPU, needs="nothing-that-is-there")
    with index(folder) as server:
        yield server


@pytest.fixture
def black_hole():
    """The address of an index that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def unreachable_index():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


class Environment:
    """A virtual environment with pip and nothing else, and what `install-torch` makes of it."""

    def __init__(self, folder, package_index):
        venv.create(folder / "env", symlinks=True)
        self.folder, self.python = folder, folder / "env" / "bin" / "python"
        (self.packages,) = folder.glob("env/lib/python*/site-packages")
        (self.packages / "pip").symlink_to(Path(pip.__file__).parent)
        (folder / "path").mkdir()
        (folder / "constraints.txt").write_text("nvidia-cublas==13.0\ntorch==2.13.0\n")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "TORCH_"))}
        self.variables = kept | {
            "PATH": str(folder / "path"),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": package_index,
            "PIP_NO_CACHE_DIR": "1",
            "NO_PROXY": "127.0.0.1",
        }

    @property
    def torch(self):
        """The version that is in it now."""
        return [path.stem.removeprefix("torch-") for path in self.packages.glob("torch-*")]


@pytest.fixture
def environment(tmp_path, package_index):
    return Environment(tmp_path, package_index)


@pytest.fixture
def script(monkeypatch, environment):
    """The program as a module, whose pip is the environment's; on a machine without a card."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = SourceFileLoader("install_torch", str(SCRIPT))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    monkeypatch.setattr(module.sys, "executable", str(environment.python))
    monkeypatch.setattr(module.sys, "argv", ["install-torch", str(environment.folder / "constraints.txt")])
    monkeypatch.setattr(module, "nvidia_card", lambda: False)
    monkeypatch.setattr(module, "installed", lambda: "")
    monkeypatch.setattr(module, "INDEX_TIMEOUT_S", PATIENCE_S)  # other tests take the cores
    for name in set(os.environ) - set(environment.variables):
        monkeypatch.delenv(name)
    for name, value in environment.variables.items():
        monkeypatch.setenv(name, value)
    return module


@pytest.fixture
def said(script, monkeypatch, capfd):
    """Run it with these variables; returns what it said."""

    def run(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert script.main() == 0
        return capfd.readouterr().out

    return run


def test_the_cpu_build_is_taken_where_pip_is_told_to_look_and_nothing_else_is_asked(
    environment, said, cpu_index, tmp_path
):
    wheel(tmp_path / "wheels", CPU)
    cpu_index.asked.clear()
    assert said(PIP_FIND_LINKS=str(tmp_path / "wheels"), TORCH_INDEX=url_of(cpu_index)) == ""
    assert environment.torch == [CPU]
    assert cpu_index.asked == []


def test_the_cpu_build_is_taken_from_an_index_of_pip_s_configuration(environment, said, cpu_index, unreachable_index):
    assert said(PIP_EXTRA_INDEX_URL=url_of(cpu_index), TORCH_INDEX=unreachable_index) == ""
    assert environment.torch == [CPU]


def test_where_pip_finds_none_by_itself_the_cpu_index_has_it(environment, said, cpu_index):
    cpu_index.asked.clear()
    assert said(TORCH_INDEX=url_of(cpu_index)) == ""
    assert environment.torch == [CPU]
    assert {path.split("/")[1] for path in cpu_index.asked} == {"torch"}, "torch alone is its business"


def test_pytorch_s_own_cpu_index_is_the_default(environment, script, said, cpu_index, monkeypatch):
    assert script.CPU_INDEX == "https://download.pytorch.org/whl/cpu"
    monkeypatch.setattr(script, "CPU_INDEX", url_of(cpu_index))
    said()
    assert environment.torch == [CPU]


def test_the_cpu_index_has_less_than_ten_seconds():
    bound = re.search(r"^INDEX_TIMEOUT_S = (\d+)$", SCRIPT.read_text(), re.MULTILINE)
    assert int(bound[1]) < 10


def test_an_index_that_never_answers_is_given_up_and_the_package_index_serves(
    environment, script, said, black_hole, monkeypatch
):
    monkeypatch.setattr(script, "INDEX_TIMEOUT_S", 1)
    assert "5.5 GB" in said(TORCH_INDEX=black_hole)
    assert environment.torch == [CUDA]


def test_an_index_that_is_not_there_costs_a_line(environment, said, unreachable_index):
    words = said(TORCH_INDEX=unreachable_index)
    assert environment.torch == [CUDA]
    assert words.startswith(
        f"No torch {CPU} in reach, at {unreachable_index} neither; taking it from the package index"
    )
    assert "5.5 GB" in words


def test_an_index_that_lists_a_build_and_does_not_have_it_costs_a_line(environment, said, tmp_path):
    wheel(tmp_path / "broken" / "torch", CPU)
    (tmp_path / "broken" / "torch" / f"torch-{CPU}-py3-none-any.whl").write_bytes(b"")
    with index(tmp_path / "broken") as server:
        words = said(TORCH_INDEX=url_of(server))
    assert environment.torch == [CUDA]
    assert "could not be installed" in words
    assert "5.5 GB" in words


def test_none_asks_no_other_index(environment, said):
    assert said(TORCH_INDEX="none") == ""
    assert environment.torch == [CUDA]


def test_with_an_nvidia_card_pip_s_own_choice_is_taken(environment, script, said, cpu_index, monkeypatch):
    monkeypatch.setattr(script, "CPU_INDEX", url_of(cpu_index))
    monkeypatch.setattr(script, "nvidia_card", lambda: True)
    assert said() == ""
    assert environment.torch == [CUDA]


def test_an_index_that_is_named_serves_with_an_nvidia_card_too(environment, script, said, cpu_index, monkeypatch):
    monkeypatch.setattr(script, "nvidia_card", lambda: True)
    said(TORCH_INDEX=url_of(cpu_index))
    assert environment.torch == [CPU]


@pytest.fixture
def with_cpu_build(environment, script, said, cpu_index, monkeypatch, tmp_path):
    """The CPU build is installed, as on a machine that gets its card later."""
    wheel(tmp_path / "first", CPU)
    said(PIP_FIND_LINKS=str(tmp_path / "first"))
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setattr(script, "CPU_INDEX", url_of(cpu_index))
    monkeypatch.setattr(script, "installed", lambda: environment.torch[0])
    cpu_index.asked.clear()
    assert environment.torch == [CPU]


@pytest.mark.usefixtures("with_cpu_build")
def test_without_a_card_the_cpu_build_is_left_alone(environment, said, cpu_index):
    assert said() == ""
    assert environment.torch == [CPU]
    assert cpu_index.asked == []


@pytest.mark.usefixtures("with_cpu_build")
@pytest.mark.parametrize(("card", "variables"), [(True, {}), (False, {"TORCH_INDEX": "none"})], ids=["card", "none"])
def test_the_cpu_build_is_replaced_for_a_card_and_where_no_cpu_index_is_wanted(
    environment, script, said, monkeypatch, card, variables
):
    monkeypatch.setattr(script, "nvidia_card", lambda: card)
    assert said(**variables) == ""
    assert environment.torch == [CUDA]


def test_for_a_card_the_cpu_build_is_not_taken_though_pip_prefers_it(environment, script, said, monkeypatch, tmp_path):
    wheel(tmp_path / "wheels", CPU)
    monkeypatch.setattr(script, "nvidia_card", lambda: True)
    assert said(PIP_FIND_LINKS=str(tmp_path / "wheels")) == ""
    assert environment.torch == [CUDA]


@pytest.mark.usefixtures("with_cpu_build")
def test_for_a_card_the_cpu_build_stays_where_no_other_is_in_reach(
    environment, script, said, monkeypatch, unreachable_index
):
    monkeypatch.setattr(script, "nvidia_card", lambda: True)
    assert "No torch for CUDA in reach" in said(PIP_INDEX_URL=unreachable_index, PIP_RETRIES="0")
    assert environment.torch == [CPU]


def test_a_torch_that_is_there_is_left_alone(environment, script, said, cpu_index, monkeypatch):
    cpu_index.asked.clear()
    monkeypatch.setattr(script, "installed", lambda: CUDA)
    assert said(TORCH_INDEX=url_of(cpu_index)) == ""
    assert environment.torch == []
    assert cpu_index.asked == []


@pytest.mark.parametrize(
    ("answer", "seen"),
    [("GPU 0: NVIDIA L4 (UUID: GPU-0)", True), ("No devices were found", False)],
    ids=["a card", "no card"],
)
def test_a_card_is_seen_by_its_driver_s_tool(tmp_path, answer, seen):
    if not seen and list(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine has a card")
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{answer}'\n")
    tool.chmod(0o755)
    asked = (
        f"from importlib.machinery import SourceFileLoader as L; print(L('i', '{SCRIPT}').load_module().nvidia_card())"
    )
    command = [sys.executable, "-BWignore", "-c", asked]
    printed = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(seen)


@pytest.mark.parametrize("name", ["scripts/setup.sh", "scripts/bench", "Dockerfile", "README.md", "docs/install.md"])
def test_every_script_and_page_installs_torch_by_install_torch(name):
    """Nothing has pip choose torch by itself; the wheel's commands in the documents neither."""
    words = (ROOT / name).read_text()
    assert "install-torch" in words
    assert re.findall(r"pip install[^\n|`]* torch(?:==\S+)?(?: |$)", words, re.MULTILINE) == []
