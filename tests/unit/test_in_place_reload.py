"""A change by HUP whose workers can't start is refused: the old release is back before the stack is given up."""

from xmlrpc.client import Fault

import pytest

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.stack.releases import recovery, state, steps
from webapp.stack.releases import tasks as module
from webapp.stack.releases.state import Release
from webapp.stack.releases.tasks import DeployOptions, InPlaceReload
from webapp.stack.supervisor import client
from webapp.stack.supervisor.client import Program, SupervisorError

OLD, NEW = Release(number=2), Release(number=3, settings={"RERANK_WORKERS": "2"})

RESTARTS_AFTER = 3
"""Looks of the deploy, after which supervisor tries again."""


class Stack:
    """A master, its supervisor and a clock. Workers of a bad release end it, at HUP and at its start."""

    def __init__(self, settings, *, bad=(), state_now="RUNNING"):
        self._settings = settings
        self._bad = bad
        self.state, self.pid, self.signals, self.now = state_now, 10, [], 0.0
        self._serves = OLD.number
        self._looks = 0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def of(self, name):
        self._looks += 1
        if self.state == "BACKOFF" and self._looks >= RESTARTS_AFTER:
            self._take_up("RUNNING")
        return Program(name, self.state, self.pid if self.state == "RUNNING" else 0, 0)

    def signal(self, name, signal):
        if self.state != "RUNNING":
            raise SupervisorError(f"supervisor: signalProcess: NOT_RUNNING: {name}")
        self.signals.append(signal)
        self._take_up("RUNNING")

    def release(self):
        return self._serves if self.state == "RUNNING" else 0

    def _take_up(self, good):
        wanted = state.read(self._settings.state_dir).serving.number
        if wanted in self._bad:
            self.state, self.pid, self._looks = "BACKOFF", self.pid + 1, 0
        else:
            self.state, self._serves = good, wanted


@pytest.fixture
def settings(tmp_path):
    made = Settings(state_dir=tmp_path)
    state.write(tmp_path, state.begin("blue").with_release("blue", OLD))
    return made


def reload(settings, stack, monkeypatch, before=None):
    """What a deploy by HUP does, with the reports of its steps."""
    colors = state.Colors(active="blue", idle="green", serves={"blue": OLD}, before=before)
    tasks, reported = InPlaceReload(colors, NEW, "blue", settings, DeployOptions(ready_timeout_s=5.0)), []
    tasks.programs = tasks.api = stack
    monkeypatch.setattr(module, "time", stack)
    try:
        steps.run(
            tasks.steps("reload"),
            lambda step, stage, said, _took_s: reported.append((step, stage, said)),
        )
    finally:
        kept = state.read(settings.state_dir)
        reported.append(("kept", kept.serving.number, kept.before and kept.before.number))
    return reported


def test_a_change_by_hup_waits_until_its_workers_answer(settings, monkeypatch):
    stack = Stack(settings)
    reported = reload(settings, stack, monkeypatch)
    assert ("reload", "done", "workers of release 3 answer") in reported
    assert reported[-1] == ("kept", 3, 2)
    assert stack.signals == ["HUP"]


def test_workers_that_end_their_master_are_refused_and_the_next_try_has_the_old_release(settings, monkeypatch):
    stack = Stack(settings, bad={3})
    with pytest.raises(steps.RefusedError, match="refused at reload: its workers did not start; see"):
        reload(settings, stack, monkeypatch)
    kept = state.read(settings.state_dir)
    assert (kept.serving, stack.release()) == (OLD, 2)
    assert stack.pid == 11, "supervisor had to try once"


def test_a_refused_change_leaves_the_release_before_for_a_rollback(settings, monkeypatch):
    with pytest.raises(steps.RefusedError):
        reload(settings, Stack(settings, bad={3}), monkeypatch, before=Release(number=1))
    assert state.read(settings.state_dir).before == Release(number=1)


@pytest.mark.parametrize("now", ["BACKOFF", "STOPPED", "FATAL"])
def test_a_master_that_does_not_run_is_told_nothing_and_nothing_is_written_down(settings, monkeypatch, now):
    stack, written = Stack(settings, bad={2, 3}, state_now=now), (settings.state_dir / state.FILE).read_bytes()
    with pytest.raises(steps.RefusedError, match="webapp-blue does not run now"):
        reload(settings, stack, monkeypatch, before=Release(number=1))
    assert (settings.state_dir / state.FILE).read_bytes() == written


def test_what_supervisor_refuses_is_an_error_that_every_command_tells(tmp_path, monkeypatch):
    class Refuses:
        def __init__(self, *_arguments, **_options):
            self.supervisor = self

        def signalProcess(self, name, _signal):  # noqa: N802 - supervisor's
            raise Fault(70, f"NOT_RUNNING: {name}")

    monkeypatch.setattr(client, "ServerProxy", Refuses)
    with pytest.raises(SetupError, match="signalProcess: NOT_RUNNING: webapp-blue"):
        client.Programs(tmp_path).signal("webapp-blue", "HUP")


def test_where_the_old_release_does_not_start_either_the_deploy_says_so_and_ends(settings, monkeypatch):
    class GivesUp(Stack):
        def of(self, name):
            if self.state == "BACKOFF" and state.read(settings.state_dir).serving == OLD:
                self.state = "FATAL"
            return super().of(name)

    with pytest.raises(steps.RefusedError, match="its workers did not start"):
        reload(settings, GivesUp(settings, bad={2, 3}), monkeypatch)
    assert state.read(settings.state_dir).serving == OLD


def test_a_stack_that_ended_does_not_hide_how_the_deploy_ended(tmp_path):
    attempt = state.Attempt(number=3, color="blue")
    colors = state.Colors(active="blue", idle="green", serves={"blue": OLD}, attempt=attempt)
    entry = state.Entry(at="", number=3, color="blue", outcome="refused", what="why")
    kept = recovery.finish(colors, entry, tmp_path, client.Programs(tmp_path))
    assert (kept.history, kept.attempt) == ([entry], attempt)
