"""The service without a server, in one process: `reranking rerank --local`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from webapp.config.settings import Settings
from webapp.domain.concurrency import NativeWaiter
from webapp.domain.types import RerankRequest, RerankResult
from webapp.engine.loader import load_engine
from webapp.servers.assembly import build_service
from webapp.service.inflight import CallOptions
from webapp.telemetry.observer import Caller, Observer

OnProgress = Callable[[int], None]
"""Called with the number of documents that are scored."""

PROGRESS_S = 0.1
"""How often it is called."""


class LocalReranker(Observer):
    """Reranks in this process, one request after the other; observes how far each is."""

    def __init__(self, settings: Settings) -> None:
        """Load the model; see `local_reranker`."""
        self._timeout_s = settings.request_timeout_s
        self._on_progress: OnProgress = lambda _: None
        self._scored: Callable[[], int] = lambda: 0
        self._service, self.scheduler, self.pool = build_service(
            settings, load_engine(settings), lambda: _ReportingWaiter(self.report), observer=self
        )

    def rerank(self, request: RerankRequest, on_progress: OnProgress = lambda _: None) -> RerankResult:
        """Score and order.

        Args:
            request: what to rank.
            on_progress: called some times a second with the number of scored documents.

        Raises:
            RerankError: see `webapp.domain.errors`.
        """
        self._on_progress = on_progress
        return self._service.rerank(request, CallOptions(time.monotonic() + self._timeout_s))

    def accepted(self, caller: Caller, requests: Sequence[RerankRequest], scored: Callable[[], int]) -> object:
        """Follow the request that the service has begun."""
        del caller, requests
        self._scored = scored
        return None

    def report(self) -> None:
        """Report how far the request is."""
        self._on_progress(self._scored())


@contextlib.contextmanager
def local_reranker(settings: Settings) -> Iterator[LocalReranker]:
    """Run engine threads while the context is open.

    Raises:
        SetupError: the model is not prepared, or damaged.
    """
    reranker = LocalReranker(settings)
    reranker.pool.start()
    try:
        yield reranker
    finally:
        reranker.scheduler.close()


class _ReportingWaiter(NativeWaiter):
    """A waiter that calls `report` while it waits."""

    __slots__ = ("_report",)

    def __init__(self, report: Callable[[], None]) -> None:
        super().__init__()
        self._report = report

    def wait(self, timeout_s: float) -> bool:
        """Sleep until woken; return False when `timeout_s` passed first."""
        give_up = time.monotonic() + timeout_s
        while not super().wait(max(0.0, min(PROGRESS_S, give_up - time.monotonic()))):
            self._report()
            if time.monotonic() >= give_up:
                return False
        return True
