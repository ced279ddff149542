"""What a step of the scheduler costs when few requests wait and when many do, in microseconds. The model costs nothing.

.venv/bin/python bench/planning.py
"""

from __future__ import annotations

import gc
import time
from contextlib import nullcontext

from webapp.engine.runtimes.stub import StubSession
from webapp.scheduling.scheduler import Scheduler

WAITING = (10, 1000, 50_000)
STEPS = 400
REPEATS = 9


def main() -> None:
    columns = ["waiting", *(f"{waiting:,}" for waiting in WAITING), "most to least"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, clients in (("of one client", 1), ("of 100 clients", 100), ("each of its own client", 10**9)):
        costs = [_cost_us(waiting, clients) for waiting in WAITING]
        print(f"| {name} | {' | '.join(f'{cost:.1f}' for cost in costs)} | {max(costs) / min(costs):.1f} |")


def _cost_us(waiting: int, clients: int) -> float:
    """Return the least mean cost of a step, with one arrival for each request that ends."""
    scheduler, session = Scheduler(lock=nullcontext(), budget_tokens=1024, threads=2), StubSession()
    arrived = 0

    def arrive() -> None:
        nonlocal arrived
        scheduler.submit("q", ["a few words"], lambda: None, client=str(arrived % clients))
        arrived += 1

    for _ in range(waiting):
        arrive()
    scheduler.step(session)
    gc.collect()
    gc.freeze()
    best = float("inf")
    for _ in range(REPEATS):
        spent = 0.0
        for _ in range(STEPS):
            began = time.thread_time()
            scheduler.step(session)
            spent += time.thread_time() - began
            while scheduler.queued_pairs < waiting:
                arrive()
        best = min(best, spent / STEPS)
    return best * 1e6


main()
