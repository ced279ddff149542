"""HUP, a worker's TERM and drain, with requests in flight and idle connections open."""

import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest
import requests
from load_kit import ClosedLoop
from running import PATIENCE_S, wait_for

pytestmark = pytest.mark.slow

IN_FLIGHT = 200

BODY = {"query": "how do bees find home", "documents": ["by the sun", "milk"]}


def idle(stack):
    """A connection that asked once and stays open."""
    session = requests.Session()
    assert session.get(f"{stack.url}/health", timeout=PATIENCE_S).ok
    return session


@pytest.mark.parametrize("how", ["HUP to the master", "TERM to the worker"])
def test_a_worker_is_replaced_and_no_request_is_lost(stack_with, how):
    with stack_with(request_timeout_s="30") as stack, idle(stack):
        with ClosedLoop(stack, IN_FLIGHT) as crowd:
            for _ in range(2):
                (worker,) = stack.workers()
                if how.startswith("HUP"):
                    os.kill(stack.pid_of("webapp"), signal.SIGHUP)
                else:
                    os.kill(worker, signal.SIGTERM)
                wait_for(lambda old=worker: old not in stack.workers() and stack.workers(), "a new worker alone")
                crowd.more()
        assert set(crowd.outcomes) == {"good"}, crowd.outcomes


def test_the_service_is_ready_during_the_whole_reload(stack_with):
    with stack_with() as stack:
        said, replaced = [], threading.Event()
        (worker,) = stack.workers()

        def ask():
            while not replaced.is_set():
                said.append(requests.get(f"{stack.url}/ready", timeout=PATIENCE_S).status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        wait_for(lambda: said, "a first answer")
        os.kill(stack.pid_of("webapp"), signal.SIGHUP)
        wait_for(lambda: stack.workers() and worker not in stack.workers(), "another worker")
        replaced.set()
        asking.join()
        assert set(said) == {200}, said


def draining(stack, *options):
    """`reranking drain`, once `/ready` says 503."""
    command = [sys.executable, "-m", "webapp", "drain", *options]
    drain = subprocess.Popen(command, env=stack._environment, stdout=subprocess.PIPE)
    wait_for(lambda: not is_ready(stack), "not ready")
    return drain


def is_ready(stack):
    return requests.get(f"{stack.url}/ready", timeout=PATIENCE_S).ok


def test_a_drain_says_503_first_and_finishes_all_that_comes(stack_with):
    stack = stack_with(request_timeout_s="60", engine_threads="1").start()
    long = [f"{number} bees find home by the sun " * 10 for number in range(4000)]
    replies = []
    asking = threading.Thread(target=lambda: replies.append(stack.rerank(long)))
    asking.start()
    wait_for(lambda: requests.get(f"{stack.url}/load", timeout=PATIENCE_S).json()["server_load"], "it is at work")
    with idle(stack), draining(stack, "--notice-s", "2") as drain:
        assert stack.rerank().status_code == 200
        assert drain.wait(PATIENCE_S) == 0  # while the idle connection is still open
        assert b"has ended" in drain.stdout.read()
    asking.join()
    assert [reply.status_code for reply in replies] == [200], "what was admitted is finished"
    assert stack.process.wait(PATIENCE_S) == 0


def test_a_notice_holds_for_new_workers_and_can_be_taken_back_or_left_to_whoever_stops_the_stack(stack_with):
    with stack_with(engine="stub", api_keys="k") as stack, requests.Session() as session:

        def closes():
            reply = session.post(f"{stack.url}/rerank", json=BODY, headers={"X-Api-Key": "k"}, timeout=PATIENCE_S)
            assert reply.status_code == 200, reply.text
            return reply.headers["Connection"] == "close"

        assert not closes()
        with draining(stack, "--notice-s", "600") as drain:
            (worker,) = stack.workers()
            os.kill(worker, signal.SIGKILL)
            wait_for(lambda: stack.workers() not in ([], [worker]), "another worker")
            assert closes()
            assert not is_ready(stack)
            drain.send_signal(signal.SIGINT)
        assert is_ready(stack)
        assert not closes()
        with draining(stack, "--notice-s", "0", "--no-stop") as drain:
            assert drain.wait(PATIENCE_S) == 0
        assert closes()
    assert stack.start().stop() == 0, "it starts without notice"


def test_a_drain_where_nothing_runs_says_so(tmp_path):
    outcome = subprocess.run(
        [sys.executable, "-m", "webapp", "drain"],
        env={**os.environ, "RERANK_STATE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 1
    assert "no stack runs" in outcome.stderr


def test_a_worker_that_grew_too_large_is_replaced(stack_with):
    with stack_with(request_timeout_s="30", max_rss_mb="10") as stack:
        (before,) = stack.workers()
        wait_for(lambda: before not in stack.workers() and stack.workers(), "a new worker alone")
        assert stack.rerank().status_code == 200
        assert stack.logged("webapp", lambda line: "workers are replaced" in line["message"])


def test_a_program_that_supervisor_gives_up_ends_the_stack_with_a_failure(stack_with):
    stack = stack_with().start()
    shutil.rmtree(stack.state_dir / "models")
    os.kill(stack.pid_of("webapp"), signal.SIGKILL)
    assert stack.process.wait(PATIENCE_S) == 1
    assert "webapp-blue was given up" in (stack.state_dir / "serve.out").read_text()
    assert stack.stop() == 1
