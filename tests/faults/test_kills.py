"""kill -9 of a worker, again and again, under load through nginx."""

import os
import signal
import time

import pytest
from loading import Clients
from running import wait_for

EVERY_S = 2.0
FOR_S = float(os.environ.get("KILLS_FOR_S", "20"))
"""The trial of docs/reliability.md takes 60."""


@pytest.mark.slow
def test_a_worker_killed_every_two_seconds_costs_no_request(stack_with):
    with stack_with(cache_mb="0") as stack, Clients(stack, 8) as clients:
        kills, ends = 0, time.monotonic() + FOR_S
        while time.monotonic() < ends:
            (worker,) = wait_for(stack.workers, "a worker")
            os.kill(worker, signal.SIGKILL)
            kills += 1
            time.sleep(EVERY_S)  # the trial's own rhythm
    outcomes = clients.outcomes
    print(f"{kills} kills, {dict(outcomes)}")  # noqa: T201 - the figure for docs/reliability.md
    assert kills > 3
    assert outcomes["good"] > 100
    assert set(outcomes) <= {"good", "refused"}, outcomes
