"""gunicorn's master, supervisord, or all processes are stopped and go on: all is answered, and nothing is replaced."""

import os
import signal

import pytest
import requests
from load_kit import ClosedLoop
from running import PATIENCE_S, Stack, stopped, wait_for

pytestmark = pytest.mark.slow

CLIENTS = 8
PROGRAMS = ("metrics", "nginx", "pusher")


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A stack with two workers."""
    with Stack(tmp_path_factory.mktemp("standstill") / "own", engine="stub", workers="2") as running:
        wait_for(lambda: len(running.workers()) == 2, "both workers")
        wait_for(lambda: {running.program("webapp"), *PROGRAMS} <= states(running).keys(), "all are up, and called so")
        yield running


def states(stack):
    """Program -> its state and process, as supervisord has them."""
    lines = stack.supervisorctl("status").splitlines()
    return {line.split()[0]: line.split()[1:4] for line in lines if "RUNNING" in line}


def supervisord(stack):
    return int((stack.state_dir / "run" / "supervisord.pid").read_text())


def test_while_the_master_stands_still_its_workers_answer_and_one_that_dies_is_replaced_later(stack):
    (kept, lost), master = stack.workers(), stack.pid_of("webapp")
    with ClosedLoop(stack, CLIENTS) as clients:
        with stopped(master):
            clients.more()
            os.kill(lost, signal.SIGTERM)
            clients.more()
            assert kept in stack.workers()
        wait_for(lambda: len(stack.workers()) == 2 and lost not in stack.workers(), "another worker")
        clients.more()
    assert set(clients.outcomes) == {"good"}, clients.outcomes
    assert kept in stack.workers(), "no live worker is killed for the time that was lost"


def test_while_supervisord_stands_still_all_is_answered_and_what_dies_is_back_later(stack):
    before, pusher = states(stack), stack.pid_of("pusher")  # a later question for them waits
    with ClosedLoop(stack, CLIENTS) as clients:
        with stopped(supervisord(stack)):
            clients.more()
            os.kill(pusher, signal.SIGKILL)
            clients.more()
        wait_for(lambda: states(stack).get("pusher", before["pusher"]) != before["pusher"], "another pusher")
        clients.more()
    assert set(clients.outcomes) == {"good"}, clients.outcomes
    assert {**states(stack), "pusher": None} == {**before, "pusher": None}, "all others are as they were"


def test_when_all_stood_still_all_go_on(stack):
    workers, before = stack.workers(), states(stack)
    with ClosedLoop(stack, CLIENTS) as clients:
        clients.more()
        with stopped(*(process.pid for process in stack.family())):
            pass
        clients.more()
    assert set(clients.outcomes) == {"good"}, clients.outcomes
    assert (stack.workers(), states(stack)) == (workers, before)
    assert requests.get(f"{stack.url}/ready", timeout=PATIENCE_S).ok
