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
from webapp.service.reranker import RerankService
from webapp.telemetry.observer import Caller, Observer

OnProgress = Callable[[int], None]
"""Called with the number of documents that are scored."""

PROGRESS_S = 0.1
"""How often it is called."""


class LocalReranker:
    """Reranks in this process, one request after the other."""

    def __init__(self, service: RerankService, progress: _Progress, timeout_s: float) -> None:
        self._service = service
        self._progress = progress
        self._timeout_s = timeout_s

    def rerank(self, request: RerankRequest, on_progress: OnProgress = lambda _: None) -> RerankResult:
        """Score and order.

        Args:
            request: what to rank.
            on_progress: called some times a second with the number of scored documents.

        Raises:
            RerankError: see `webapp.domain.errors`.
        """
        self._progress.on_progress = on_progress
        return self._service.rerank(request, time.monotonic() + self._timeout_s)


@contextlib.contextmanager
def local_reranker(settings: Settings) -> Iterator[LocalReranker]:
    """Run engine threads while the context is open.

    Raises:
        SetupError: the model is not prepared, or damaged.
    """
    progress = _Progress()
    service, scheduler, pool = build_service(
        settings, load_engine(settings), lambda: _ReportingWaiter(progress), observer=progress
    )
    pool.start()
    try:
        yield LocalReranker(service, progress, settings.request_timeout_s)
    finally:
        scheduler.close()


class _Progress(Observer):
    """The progress of the one request that is at work."""

    def __init__(self) -> None:
        self.on_progress: OnProgress = lambda _: None
        self.scored: Callable[[], int] = lambda: 0

    def accepted(self, caller: Caller, requests: Sequence[RerankRequest], scored: Callable[[], int]) -> object:
        """Follow the request that the service has begun."""
        del caller, requests
        self.scored = scored
        return None


class _ReportingWaiter(NativeWaiter):
    """A waiter that reports progress while it waits."""

    __slots__ = ("_progress",)

    def __init__(self, progress: _Progress) -> None:
        super().__init__()
        self._progress = progress

    def wait(self, timeout_s: float) -> bool:
        """Sleep until woken; return False when `timeout_s` passed first."""
        give_up = time.monotonic() + timeout_s
        while not super().wait(max(0.0, min(PROGRESS_S, give_up - time.monotonic()))):
            self._progress.on_progress(self._progress.scored())
            if time.monotonic() >= give_up:
                return False
        return True
