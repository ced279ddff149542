"""An engine that raises, hangs or answers nonsense, in the whole stack."""

import os
import signal
import threading
from pathlib import Path

import pytest
import requests
from running import PATIENCE_S, Stack, wait_for

SERVICES = Path(__file__).parents[1] / "services"

pytestmark = pytest.mark.slow


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """A stack on the stub engine that fails as requests ask it to; not started yet."""
    monkeypatch.setenv("PYTHONPATH", str(SERVICES / "faulty"))

    def make(**settings):
        return Stack(tmp_path / "own", engine="stub", cache_mb="0", **settings)

    return make


def ask(stack, query, **options):
    body = {"query": query, "documents": [{"content": "a"}, {"content": "b"}]}
    return requests.post(f"{stack.url}/rerank", json=body, timeout=PATIENCE_S, **options)


def test_faults_are_errors_then_the_breaker_opens_and_closes_by_itself(faulty):
    with faulty(degraded="lexical") as stack:
        for query in ("raise", "nan", "length", "raise", "nan"):
            reply = ask(stack, query)
            assert (reply.status_code, reply.json()["error"]["code"]) == (500, "engine_failed")
        reply = ask(stack, "good")
        assert (reply.status_code, reply.headers["X-Rerank-Degraded"]) == (200, "lexical")
        wait_for(lambda: "X-Rerank-Degraded" not in ask(stack, "good").headers, "the model is back")

        lines = stack.logged("webapp", lambda line: line["message"] == "breaker", count=3)
        assert [(line["was"], line["state"]) for line in lines] == [
            ("closed", "open"),
            ("open", "half_open"),
            ("half_open", "closed"),
        ]


def test_a_worker_whose_engine_hangs_is_replaced_and_nobody_waits_for_ever(faulty):
    with faulty(engine_stall_s="1", engine_threads="2") as stack:
        (before,) = stack.workers()
        replies = []
        options = {"headers": {"X-Request-Timeout": "2"}}
        hanging = threading.Thread(target=lambda: replies.append(ask(stack, "hang", **options)))
        hanging.start()
        wait_for(lambda: stack.workers() not in ([], [before]), "a new worker")
        hanging.join()
        assert replies[0].status_code in {503, 504}
        wait_for(lambda: ask(stack, "good").status_code == 200, "the service is back")
        assert stack.logged("webapp", lambda line: "this worker ends" in line["message"])


def test_an_engine_that_never_starts_ends_its_worker_then_supervisor_gives_up_and_serve_fails(tmp_path, monkeypatch):
    stuck = tmp_path / "stuck"
    monkeypatch.setenv("PYTHONPATH", str(SERVICES / "stuck"))
    monkeypatch.setenv("STUCK", str(stuck))
    with Stack(tmp_path / "own", engine="stub", request_timeout_s="20") as stack:
        stuck.touch()
        (worker,) = stack.workers()
        os.kill(worker, signal.SIGKILL)
        assert stack.process.wait(PATIENCE_S) == 1
        assert "webapp-blue was given up" in (stack.state_dir / "serve.out").read_text()
        lines = stack.logged("webapp", lambda line: "the engine did not start" in line["message"], count=3)
        assert "the model was not ready in 1 s" in lines[0]["message"]
