"""What `reranking serve` does to its supervisord when something else than a signal ends it."""

import subprocess
from types import SimpleNamespace

import pytest

from webapp.config.settings import STOP_GRACE_S, Settings
from webapp.stack import serve


class Supervisord:
    """It needs so many seconds, by a clock of its own, to finish what was admitted."""

    pid = 0

    def __init__(self, needs_s):
        self.now, self._needs_s = 0.0, needs_s
        self.told = []

    def monotonic(self):
        return self.now

    def poll(self):
        return 0 if self.now >= self._needs_s else None

    def terminate(self):
        self.told.append("TERM")

    def kill(self):
        self.told.append("KILL")
        self._needs_s = self.now

    def wait(self, timeout=float("inf")):
        self.now = min(self._needs_s, self.now + timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("supervisord", timeout)
        return 0


@pytest.mark.parametrize(("needs_s", "told"), [(0, []), (300, ["TERM"]), (321, ["TERM", "KILL"])])
def test_requests_that_were_admitted_are_finished_and_no_more_is_waited_for(monkeypatch, needs_s, told):
    supervisord, looks = Supervisord(needs_s), []
    monkeypatch.setattr(serve, "time", supervisord)
    shutdown = SimpleNamespace(step=lambda: looks.append(supervisord.now))
    serve._end(supervisord, Settings().request_timeout_s + STOP_GRACE_S, shutdown)
    assert supervisord.told == told
    assert bool(looks) == bool(told), "nginx is seen off meanwhile"
