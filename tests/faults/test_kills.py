"""kill -9 of a worker, again and again, under load through nginx."""

import os
import signal
import threading
import time
from collections import Counter

import pytest
import requests
from running import wait_for

EVERY_S, FOR_S = 2.0, 60.0


@pytest.mark.slow
def test_a_worker_killed_every_two_seconds_costs_no_request(stack_with):
    outcomes, stop = Counter(), threading.Event()
    documents = [f"bees find home by the sun {number}" for number in range(8)]

    def client():
        while not stop.is_set():
            try:
                reply = stack.rerank(documents)
                good = reply.status_code == 200 and len(reply.json()["results"]) == len(documents)
                refused = reply.status_code == 503 and "Retry-After" in reply.headers
                outcomes["good" if good else "refused" if refused else reply.status_code] += 1
            except requests.ConnectionError:
                outcomes["no connection"] += 1

    with stack_with(cache_mb="0") as stack:
        clients = [threading.Thread(target=client) for _ in range(8)]
        for each in clients:
            each.start()
        kills, ends = 0, time.monotonic() + FOR_S
        while time.monotonic() < ends:
            (worker,) = wait_for(stack.workers, "a worker", patience_s=5)
            os.kill(worker, signal.SIGKILL)
            kills += 1
            stop.wait(EVERY_S)  # the trial's own rhythm
        stop.set()
        for each in clients:
            each.join()
    print(f"{kills} kills, {dict(outcomes)}")  # noqa: T201 - the figure for docs/reliability.md
    assert kills > FOR_S / EVERY_S / 2
    assert outcomes["good"] > 100
    assert set(outcomes) <= {"good", "refused"}, outcomes
