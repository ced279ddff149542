"""A request of more work than the time in which gunicorn must hear of a worker, and a worker that is not heard of."""

import os
import signal

import pytest
import requests
from running import PATIENCE_S, Stack, wait_for

pytestmark = pytest.mark.slow

HEARTBEAT_S = 3

WORK_MS = 3000 * HEARTBEAT_S

FIRST = 200
"""Documents by which it is measured how many are work enough."""

MOST = 20_000


@pytest.fixture
def stack(bert_settings, tmp_path, monkeypatch):
    """One engine thread with a real model, below a gunicorn that waits a few seconds for a sign of a worker."""
    monkeypatch.setenv("GUNICORN_CMD_ARGS", f"--timeout {HEARTBEAT_S}")
    settings = {"model": bert_settings.model, "engine_threads": "1", "cache_mb": "0", "max_documents": str(MOST)}
    with Stack(tmp_path / "own", artifacts_from=bert_settings.state_dir, **settings) as running:
        yield running


def score(stack, count):
    """Have so many documents, which fill the model's window, scored in one request; returns ms that the engine took."""
    documents = [f"{number} " + "a " * 510 for number in range(count)]
    body = {"query": "how do bees find home", "documents": documents, "return_documents": False}
    reply = requests.post(f"{stack.url}/v1/rerank", json=body, timeout=PATIENCE_S)
    assert reply.status_code == 200, reply.text[:500]
    assert len(reply.json()["results"]) == count
    return int(reply.headers["x-inference-time"]) + int(reply.headers["x-tokenization-time"])


def test_a_request_of_more_work_than_the_heartbeat_is_answered_by_a_worker_that_lives_on(stack):
    workers, count = stack.workers(), FIRST
    while (took_ms := score(stack, count)) < WORK_MS and count < MOST:
        count = min(MOST, 1 + round(1.3 * count * WORK_MS / max(took_ms, 1)))
    assert took_ms > 2000 * HEARTBEAT_S, f"{count} documents are too little work to tell"
    assert stack.workers() == workers
    os.kill(workers[0], signal.SIGSTOP)
    wait_for(lambda: stack.workers() not in ([], workers), "it is replaced: the heartbeat is in force")
    assert stack.logged("webapp", lambda line: "WORKER TIMEOUT" in line["message"])
