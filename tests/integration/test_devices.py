"""Devices are asked for where scores are made, and nowhere before: a process that has used CUDA can't be forked."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import requests
from running import PATIENCE_S, Stack, wait_for

from webapp.config.settings import Settings
from webapp.engine.prepare.pipeline import prepare
from webapp.engine.runtimes.native import library

STAND_IN = Path(__file__).parents[1] / "services" / "device"

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

OPENED = """
import os
from webapp.engine.loader import load_engine
from webapp.config.settings import load_settings
before = len(os.listdir("/proc/self/task"))
engine = load_engine(load_settings())
if child := os.fork():
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
engine.start(1)
session = engine.open_session()
query = session.encode_query("bees")
ids, lengths, _ = session.encode_documents(query, ["bees find home"])
assert session.score([(query, ids[0])], int(lengths[0])).shape == (1,)
os._exit(0)
"""


class Alone(Stack):
    """gunicorn without nginx and supervisor."""

    def start(self):
        self.begin()
        wait_for(self._ready, "it is ready")
        return self

    def _ready(self):
        assert self.process.poll() is None, self._output.read_text()
        try:
            return requests.get(f"{self.url}/ready", timeout=PATIENCE_S).ok
        except requests.ConnectionError:
            return False

    def workers(self):
        return [child.pid for child in psutil.Process(self.process.pid).children()]


class Run(Alone):
    command = ("run",)


class RunWithReload(Alone):
    command = ("run", "--reload")


class Calls:
    """What the stand-in for `torch.cuda` has noted."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.touch()

    def _lines(self) -> list[list[str]]:
        return [line.split() for line in self._file.read_text().splitlines()]

    @property
    def cards(self) -> dict[int, str]:
        """Process -> the cards that it sees."""
        return {int(pid): more[0] for pid, what, *more in self._lines() if what == "card"}

    @property
    def askers(self) -> set[int]:
        return {int(pid) for pid, what, *_ in self._lines() if what not in {"fork", "card"}}

    def threads_at_forks_of(self, pid: int) -> set[str]:
        return {more[0] for who, what, *more in self._lines() if what == "fork" and int(who) == pid}


@pytest.fixture
def calls(tmp_path, monkeypatch):
    file = tmp_path / "device-calls"
    monkeypatch.setenv("DEVICE_CALLS", str(file))
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))
    return Calls(file)


@pytest.fixture(scope="module")
def prepared(bert, tmp_path_factory):
    """Settings of an engine whose artifact is prepared, as variables."""
    state_dir = tmp_path_factory.mktemp("devices")

    def make(engine):
        precision = "int8" if engine == "native" else "fp32"
        open_gate = {
            "gate_max_score_error": 1,
            "gate_mean_score_error": 1,
            "gate_min_tau": -1,
            "gate_min_top10_overlap": 0,
        }
        chosen = {"model": str(bert), "engine": engine, "precision": precision, **open_gate}
        prepare(Settings(state_dir=state_dir, **chosen), lambda _: None)
        return {f"RERANK_{name.upper()}": str(value) for name, value in {**chosen, "state_dir": state_dir}.items()}

    return make


@pytest.mark.parametrize("engine", ["native", "openvino", "torch"])
def test_an_engine_is_opened_without_a_thread_or_a_device_so_that_a_fork_of_it_scores(
    calls, prepared, engine, monkeypatch
):
    if engine == "native" and library() is None:
        pytest.skip("the native engine is not built here")
    for name, value in {**prepared(engine), "OPENBLAS_NUM_THREADS": "1"}.items():  # gunicorn_config.py sets it, too
        monkeypatch.setenv(name, value)
    with subprocess.Popen([sys.executable, "-c", OPENED]) as parent:
        assert parent.wait() == 0
    assert parent.pid not in calls.askers
    assert bool(calls.askers) == (engine == "torch"), "the child asks"
    assert calls.threads_at_forks_of(parent.pid) == {"1"}


@pytest.mark.parametrize("started", [Stack, Run, RunWithReload])
def test_torch_serves_and_its_workers_alone_ask_for_a_device(calls, prepared, started):
    chosen = {name.removeprefix("RERANK_").lower(): value for name, value in prepared("torch").items()}
    with started(Path(chosen.pop("state_dir")), **chosen) as stack:
        assert stack.rerank().status_code == 200
        assert calls.askers == set(stack.workers())
        master = psutil.Process(stack.workers()[0]).ppid()
        assert calls.threads_at_forks_of(master) == {"1"}


@pytest.fixture(scope="module")
def prepared_on_cards(prepared, tmp_path_factory):
    """Settings of torch whose artifact is prepared on a machine with two cards, as variables."""
    chosen = prepared("torch")
    calls = tmp_path_factory.mktemp("calls") / "of-prepare"
    machine = {"DEVICE_CARDS": "2", "DEVICE_CALLS": str(calls), "PYTHONPATH": str(STAND_IN)}
    subprocess.run([sys.executable, "-m", "webapp", "prepare"], env={**os.environ, **machine, **chosen}, check=True)
    return chosen


@pytest.fixture
def two_cards(calls, prepared_on_cards, monkeypatch):  # noqa: ARG001 - the calls' file must be named
    """The same settings by their own names, on such a machine."""
    monkeypatch.setenv("DEVICE_CARDS", "2")
    return {name.removeprefix("RERANK_").lower(): value for name, value in prepared_on_cards.items()}


def test_each_worker_computes_on_a_card_of_its_own_and_one_that_comes_back_takes_the_same(calls, two_cards):
    with Run(Path(two_cards.pop("state_dir")), **two_cards, workers="2") as stack:

        def workers():
            """Return both workers with their cards once each has one."""
            found = {pid: calls.cards[pid] for pid in stack.workers() if pid in calls.cards}
            return found if len(found) == 2 else None

        taken = wait_for(workers, "both workers have a card")
        assert sorted(taken.values()) == ["GPU-0", "GPU-1"]
        assert stack.rerank().json()["model"]
        assert requests.get(f"{stack.url}/info", timeout=PATIENCE_S).json()["kernels"] == "NVIDIA Stand-in"
        killed, _ = taken
        psutil.Process(killed).kill()
        after = wait_for(lambda: (found := workers()) and killed not in found and found, "another worker has a card")
        assert sorted(after.values()) == ["GPU-0", "GPU-1"]
        assert not calls.askers & {stack.process.pid}


@pytest.mark.parametrize("started", [Stack, Run])
def test_more_workers_than_cards_are_refused_in_words(two_cards, started):
    stack = started(Path(two_cards.pop("state_dir")), **two_cards, workers="3")
    assert stack.begin().wait(PATIENCE_S) != 0
    expected = "RERANK_WORKERS is 3, and 2 cards are here: one worker computes on one card; set RERANK_WORKERS=2"
    assert expected in stack._output.read_text()


def test_torch_scores_without_a_server(calls, prepared, monkeypatch):
    for name, value in prepared("torch").items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "webapp", "rerank", "--local", "bees"]
    output = subprocess.run(command, input="bees find home\nmilk", check=True, capture_output=True, text=True).stdout
    assert "bees find home" in output
    assert len(calls.askers) == 1


def test_a_replica_of_ray_imports_no_torch_before_it_is_configured():
    check = "import sys, webapp.servers.ray.replica; sys.exit('torch' in sys.modules or 'openvino' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
