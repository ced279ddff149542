"""The service without a server, in one process: the composition root of `reranking rerank --local`."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence

from webapp.config.settings import Settings
from webapp.domain.concurrency import NativeWaiter, allocate_lock, start_native_thread
from webapp.domain.types import RerankRequest, RerankResult
from webapp.engine.loader import load_engine
from webapp.engine.pool import EnginePool
from webapp.scheduling.admission import Admission
from webapp.scheduling.scheduler import Scheduler
from webapp.service.inflight import InflightScores
from webapp.service.reranker import RerankService
from webapp.telemetry.observer import Caller, NullObserver

Tell = Callable[[int], None]
"""Told how many documents are scored."""

TELL_S = 0.1
"""How often."""


class LocalReranker:
    """Reranks in this very process, one request after the other."""

    def __init__(self, service: RerankService, followed: _Followed, timeout_s: float) -> None:
        self._service = service
        self._followed = followed
        self._timeout_s = timeout_s

    def rerank(self, request: RerankRequest, tell: Tell = lambda _: None) -> RerankResult:
        """Score and order.

        Args:
            request: what to rank.
            tell: told of the progress, some times a second.

        Raises:
            RerankError: see `webapp.domain.errors`.
        """
        self._followed.tell = tell
        return self._service.rerank(request, time.monotonic() + self._timeout_s)


@contextlib.contextmanager
def local_reranker(settings: Settings) -> Iterator[LocalReranker]:
    """Engine threads that run while the context is open.

    Raises:
        SetupError: the model is not prepared, or damaged.
    """
    engine = load_engine(settings)
    threads = settings.engine_threads or len(os.sched_getaffinity(0))
    scheduler = Scheduler(
        lock=allocate_lock(),
        budget_tokens=settings.batch_tokens or engine.info.tuning.batch_tokens,
        threads=threads,
        longest_pair_tokens=engine.info.max_length_tokens,
    )
    pool = EnginePool(engine, scheduler.step, threads=threads, start_thread=start_native_thread)
    followed = _Followed()
    scoring = InflightScores(
        scheduler=scheduler,
        cache=None,
        artifact=engine.info.identity,
        make_waiter=lambda: _TellingWaiter(followed),
    )
    service = RerankService(
        model=engine.info,
        scoring=scoring,
        admission=Admission(max_ongoing_requests=1),
        max_documents=settings.max_documents,
        texts=engine.texts,
        observer=followed,
    )
    pool.start()
    try:
        yield LocalReranker(service, followed, settings.request_timeout_s)
    finally:
        scheduler.close()


class _Followed(NullObserver):
    """The one request that is at work."""

    def __init__(self) -> None:
        self.tell: Tell = lambda _: None
        self.scored: Callable[[], int] = lambda: 0

    def accepted(self, caller: Caller, requests: Sequence[RerankRequest], scored: Callable[[], int]) -> object:
        """As the service has begun it."""
        del caller, requests
        self.scored = scored
        return None


class _TellingWaiter(NativeWaiter):
    """Tells how far it is while it waits."""

    __slots__ = ("_followed",)

    def __init__(self, followed: _Followed) -> None:
        super().__init__()
        self._followed = followed

    def wait(self, timeout_s: float) -> bool:
        """Sleep until woken; False when `timeout_s` passed first."""
        give_up = time.monotonic() + timeout_s
        while not super().wait(max(0.0, min(TELL_S, give_up - time.monotonic()))):
            self._followed.tell(self._followed.scored())
            if time.monotonic() >= give_up:
                return False
        return True
