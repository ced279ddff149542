"""kill -9 of a worker, again and again, under load through nginx."""

import os
import signal

import pytest
from loading import Clients
from running import wait_for

KILLS = int(os.environ.get("KILLS", "10"))
"""The trial of docs/reliability.md makes 30."""


@pytest.mark.slow
def test_workers_killed_under_load_cost_no_request(stack_with):
    with stack_with(cache_mb="0") as stack, Clients(stack, 8) as clients:
        for _ in range(KILLS):
            (worker,) = wait_for(stack.workers, "a worker")
            os.kill(worker, signal.SIGKILL)
            wait_for(lambda old=worker: stack.workers() not in ([], [old]), "another worker")
            clients.more()
    outcomes = clients.outcomes
    print(f"{KILLS} kills, {dict(outcomes)}")  # noqa: T201 - the figure for docs/reliability.md
    assert set(outcomes) <= {"good", "refused"}, outcomes
