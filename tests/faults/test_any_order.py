"""kill -9 of what can be killed: all is back by itself, nothing is left over. scripts/nemesis has other orders."""

import os
import signal

import psutil
import pytest
import requests
from processes import processes_of
from running import PATIENCE_S, Stack, wait_for

pytestmark = pytest.mark.slow

PROGRAMS = ("webapp", "nginx", "pusher", "metrics")


def names(stack):
    """How many processes there are of each kind."""
    kinds = (
        "webapp serve",
        "supervisord",
        "gunicorn",
        "-m pusher",
        "telemetry.exporter",
        "nginx: master",
        "nginx: worker",
    )
    commands = [" ".join(process.cmdline()) for process in processes_of(stack)]
    return {kind: sum(kind in command for command in commands) for kind in kinds} | {"all": len(commands)}


def whole(stack):
    """Whether all parts answer."""
    try:
        return stack.rerank().status_code == 200 and requests.get(f"{stack.url}/progress", timeout=PATIENCE_S).ok
    except requests.RequestException:
        return False


@pytest.fixture
def stack(tmp_path):
    """A stack without a model: it is the processes that count."""
    return Stack(tmp_path / "own", engine="stub", request_timeout_s="20")


def test_programs_killed_one_right_after_the_other_are_back_and_none_is_there_twice(stack):
    with stack:
        before = names(stack)
        pids = {program: stack.pid_of(program) for program in PROGRAMS}
        for program in PROGRAMS:
            os.kill(pids[program], signal.SIGKILL)
        wait_for(lambda: all(stack.pid_of(each) not in (None, pids[each]) for each in PROGRAMS), "new ones")
        wait_for(lambda: whole(stack), "the stack is whole")
        wait_for(lambda: names(stack) == before, "no process is left over")
        wait_for(
            lambda: not [each for each in stack.family() if each.status() == psutil.STATUS_ZOMBIE],
            "what had no parent is reaped",
        )


def test_a_killed_supervisord_takes_all_with_it_and_serve_ends_with_a_failure(stack):
    stack.start()
    (supervisord,) = psutil.Process(stack.process.pid).children()
    supervisord.kill()
    assert stack.process.wait(PATIENCE_S) == 1
    assert "supervisord ended by itself with -9" in (stack.state_dir / "serve.out").read_text()
    assert processes_of(stack) == []
    with stack:
        wait_for(lambda: whole(stack), "the stack is whole")


def test_after_a_kill_of_serve_the_rest_finishes_and_the_next_start_waits_for_it(stack):
    killed = stack.start().process
    killed.kill()
    with stack:  # at once, while the rest stops
        assert killed.wait(PATIENCE_S) == -signal.SIGKILL
        wait_for(lambda: whole(stack), "the stack is whole")
        wait_for(lambda: names(stack)["all"] == names(stack)["nginx: worker"] + 7, "one of each, and gunicorn's worker")


def test_with_serve_and_supervisord_killed_together_nothing_lives_on(stack):
    stack.start()
    (supervisord,) = psutil.Process(stack.process.pid).children()
    stack.process.kill()
    supervisord.kill()
    wait_for(lambda: not processes_of(stack), "all have ended")
    stack.process.wait(PATIENCE_S)
    with stack:
        wait_for(lambda: whole(stack), "the stack is whole")
