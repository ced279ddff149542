"""A canary is judged when its last request has ended, in whichever of its workers that was."""

import itertools

import pytest

from webapp.config.settings import Settings
from webapp.stack.local_client import ColorApi
from webapp.stack.releases import state
from webapp.stack.releases import tasks as module
from webapp.stack.releases.state import Release
from webapp.stack.releases.tasks import DeployOptions, DeployTasks
from webapp.stack.supervisor.client import Program


class Canary:
    """Workers with requests at work until some second; calls go from one to the next. All that a deploy asks."""

    def __init__(self, *ends_at, silent_until=0.0):
        self.now = 0.0
        self._ends_at = ends_at
        self._silent_until = silent_until
        self._next = itertools.count()

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def of(self, name):
        return Program(name, "RUNNING", 7, 60)

    def is_ready(self):
        return True

    def ongoing(self):
        if self.now < self._silent_until:
            return None
        return int(self._ends_at[next(self._next) % len(self._ends_at)] > self.now)


def judged_at(canary, tmp_path, monkeypatch):
    """The second at which the traffic of a canary of no length is judged."""
    workers = len(canary._ends_at)
    settings = Settings(state_dir=tmp_path, workers=workers)
    settings.run_dir.mkdir()
    options = DeployOptions(canary_percent=10, canary_s=0)
    tasks = DeployTasks(state.begin("blue"), Release(number=2), "green", settings, options)
    tasks.programs = tasks.api = canary
    tasks._pid = 7
    monkeypatch.setattr(module, "time", canary)
    monkeypatch.setattr(module, "KEPT_S", 0)
    seen = []
    monkeypatch.setattr(module.canary, "judge", lambda *_: seen.append(canary.now) or "as good")
    assert tasks.canary() == "as good"
    tasks.undo_canary()
    return seen[0]


@pytest.mark.parametrize(
    "canary",
    [
        Canary(9.0),
        Canary(0.0, 9.0),
        Canary(*[0.0] * 7, 9.0),
        Canary(0.0, silent_until=9.0),
        Canary(0.0, 0.0, silent_until=9.0),
    ],
    ids=["one worker", "the other of two", "one of eight", "silent", "both silent"],
)
def test_a_request_of_any_worker_is_waited_for_and_silence_is_not_taken_for_rest(canary, tmp_path, monkeypatch):
    assert 9 <= judged_at(canary, tmp_path, monkeypatch) < 14


def test_one_worker_that_is_quiet_is_asked_once(tmp_path, monkeypatch):
    assert judged_at(Canary(0.0), tmp_path, monkeypatch) < 2


def test_an_unreachable_color_is_not_taken_for_an_idle_one(tmp_path):
    assert ColorApi(Settings(state_dir=tmp_path), "green").ongoing() is None
