"""kill -9, under load."""

import os
import signal
import time
from pathlib import Path

import pytest
from load_kit import ClosedLoop
from running import wait_for


@pytest.fixture
def loaded(own_stack):
    with own_stack, ClosedLoop(own_stack, 4) as load:
        yield own_stack, load


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    return time.monotonic()


def test_a_killed_worker_is_back_and_no_request_is_lost(loaded):
    stack, load = loaded
    for _ in range(3):
        (worker,) = stack.workers()
        kill(worker)
        wait_for(lambda old=worker: stack.workers() not in ([], [old]), "a new worker")
        load.more(12)
    assert set(load.outcomes) == {"good"}, load.outcomes


def test_a_killed_master_is_back_with_new_workers(loaded):
    stack, load = loaded
    workers = stack.workers()
    kill(stack.pid_of("webapp"))
    wait_for(lambda: stack.pid_of("webapp") and stack.workers() not in ([], workers), "a new master")
    load.more(12)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "orphans are gone")


def test_a_killed_nginx_is_back(loaded):
    stack, load = loaded
    before = stack.pid_of("nginx")
    kill(before)
    wait_for(lambda: stack.pid_of("nginx") not in (None, before), "a new nginx")
    load.more(12)


@pytest.mark.slow
def test_while_the_webapp_is_down_nginx_says_so_in_json(own_stack):
    with own_stack as stack:
        stack.supervisorctl("stop", "webapp")
        reply = stack.rerank()
        assert reply.status_code == 503
        message = "the service is starting or restarting"
        assert reply.json() == {
            "error": {
                "code": "unavailable",
                "message": message,
                "type": "ServiceUnavailableError",
                "param": None,
                "retryable": True,
            },
            "message": message,
            "detail": message,
            "status": 503,
            "code": 503,
            "request_id": reply.headers["X-Request-Id"],
        }
        assert int(reply.headers["Retry-After"]) >= 1
        stack.supervisorctl("start", "webapp")
        wait_for(lambda: stack.rerank().status_code == 200, "reranks again")
