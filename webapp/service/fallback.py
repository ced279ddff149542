"""What a request gets while the engine fails: an error, or scores by words alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from webapp.domain.errors import EngineFailedError, RerankError, UnavailableError
from webapp.domain.ranking import rank
from webapp.domain.types import RerankRequest, RerankResult, Scored
from webapp.scheduling.breaker import Breaker, State

log = logging.getLogger(__name__)

LEXICAL_MODEL = "bm25"

Lexical = Callable[[str, Sequence[str]], NDArray[np.float32]]
"""(query, documents) -> scores 0..1."""


class EngineFallback:
    """The engine's breaker, and what replaces the engine while it is open. Used on the hub's thread."""

    def __init__(
        self,
        lexical: Lexical | None = None,
        on_change: Callable[[State, State], None] = lambda _old, _new: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin closed: requests go to the engine.

        Args:
            lexical: makes scores while the breaker is open; None: requests are refused then.
            on_change: called with the breaker's old and new state.
            clock: monotonic seconds.
        """
        self.breaker = Breaker(self._changed)
        self._on_change = on_change
        self._lexical = lexical
        self._clock = clock

    def substitute(self, request: RerankRequest) -> Callable[[], NDArray[np.float32]] | None:
        """Return None to ask the engine, else a function that makes other scores; it takes a while.

        Raises:
            UnavailableError: the engine is not asked, and nothing replaces it.
        """
        now = self._clock()
        if self.breaker.allows(now):
            return None
        lexical = self._lexical
        if lexical is None:
            retry_after_s = self.breaker.retry_after_s(now)
            raise UnavailableError("the model fails at the moment", retry_after_s=retry_after_s, reason="breaker")
        return lambda: lexical(request.query, request.documents)

    def report(self, outcome: Scored | RerankError) -> None:
        """Report an admitted request's outcome to the breaker."""
        if isinstance(outcome, Scored):
            if outcome.cached < len(outcome.logits):  # else the cache had all, and it was no probe
                self.breaker.succeeded()
        elif isinstance(outcome, EngineFailedError):
            self.breaker.failed(self._clock())
        else:
            self.breaker.no_outcome(self._clock())

    def _changed(self, old: State, new: State) -> None:
        write = log.error if new == "open" else log.warning
        write("breaker", extra={"was": old, "state": new})
        self._on_change(old, new)


def lexical_result(request: RerankRequest, scores: NDArray[np.float32], latency_ms: float) -> RerankResult:
    """Return a result by words alone, marked so; such scores are never cached."""
    order = rank(scores, request.top_n)
    return RerankResult(
        request=request,
        order=order.tolist(),
        scores=scores[order].tolist(),
        truncated=[False] * len(order),
        tokens=0,
        cached=0,
        model=LEXICAL_MODEL,
        latency_ms=latency_ms,
        degraded=True,
    )


def lexical_scores(query: str, documents: Sequence[str]) -> NDArray[np.float32]:
    """Return BM25 scores of a request's own documents, shape [documents]; zeros if none shares a word with the query.

    They count words, not meaning. They are shares of the best document's score, so 0..1, and comparable within a
    request only.
    """
    import bm25s  # noqa: PLC0415 - most processes never need it

    words = bm25s.tokenize([query, *documents], stopwords=None, show_progress=False, return_ids=False)
    scores = np.zeros(len(documents), np.float32)
    known = {word for document in words[1:] for word in document}
    asked = [word for word in words[0] if word in known]
    if asked:
        index = bm25s.BM25()
        index.index(words[1:], show_progress=False)
        scores = np.asarray(index.get_scores(asked), np.float32)
    best = scores.max(initial=0.0)
    return scores / best if best > 0 else scores
