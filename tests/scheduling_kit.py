"""A scheduler with engine threads, for tests."""

from __future__ import annotations

from running import PATIENCE_S

from webapp.domain.concurrency import NativeWaiter, allocate_lock, start_native_thread
from webapp.engine.pool import EnginePool
from webapp.scheduling.scheduler import Scheduler


class Rig:
    """Submits from the test's thread, scores on engine threads."""

    def __init__(self, engine, *, threads=2, budget_tokens=1024):
        self.scheduler = Scheduler(
            lock=allocate_lock(), budget_tokens=budget_tokens, threads=threads, padded=engine.padded
        )
        self.pool = EnginePool(engine, self.scheduler.step, threads=threads, start_thread=start_native_thread)

    def __enter__(self):
        self.pool.start()
        return self

    def __exit__(self, *_):
        self.scheduler.close()

    def submit(self, query, documents):
        waiter = NativeWaiter()
        return self.scheduler.submit(query, documents, waiter.wake), waiter

    def score(self, query, documents):
        ticket, waiter = self.submit(query, documents)
        assert waiter.wait(PATIENCE_S), ticket
        return ticket
