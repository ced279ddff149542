"""The use case: admit -> score -> rank -> result. Knows no HTTP."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Literal

from webapp.errors import InternalError, InvalidRequestError, RerankError, UnavailableError
from webapp.ranking import rank, to_scores
from webapp.scheduling.admission import Admission
from webapp.scoring import Pending, Scoring
from webapp.telemetry.observer import Caller, Observer, Silent
from webapp.types import ModelInfo, RerankRequest, RerankResult

State = Literal["loading", "ready", "draining"]

NOBODY = Caller(request_id="", dialect="")


class RerankService:
    """Reranks, for any caller that can wait."""

    def __init__(
        self,
        *,
        model: ModelInfo,
        scoring: Scoring,
        admission: Admission,
        max_documents: int,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.scoring = scoring
        self._admission = admission
        self._max_documents = max_documents
        self._observer = observer or Silent()
        self._clock = clock
        self.state: State = "loading"

    def rerank(self, request: RerankRequest, deadline: float, caller: Caller = NOBODY) -> RerankResult:
        """Score and order one request.

        Args:
            request: what to rank.
            deadline: monotonic time at which the caller stops waiting.
            caller: whose request it is, for those who watch.

        Raises:
            RerankError: see `webapp.errors`; nothing is left behind in the queue.
        """
        outcome = self.rerank_many([request], deadline, caller)[0]
        if isinstance(outcome, RerankError):
            raise outcome
        return outcome

    def rerank_many(
        self, requests: Sequence[RerankRequest], deadline: float, caller: Caller = NOBODY
    ) -> list[RerankResult | RerankError]:
        """Score several requests together; each gets its own result or its own error, in the order given.

        Raises:
            OverloadedError, UnavailableError: none of them was begun.
        """
        with contextlib.ExitStack() as place:
            try:
                if self.state == "draining":
                    raise UnavailableError("the service is draining", retry_after_s=1)
                place.enter_context(self._admission.admit())
            except RerankError as error:
                self._observer.refused(caller, requests, error)
                raise
            # While the model loads, requests wait in the queue: a restart costs its callers a second, not an error.
            began = self._clock()
            begun = [self._begin(request) for request in requests]
            watched = self._observer.accepted(caller, requests, lambda: _scored(begun))
            outcomes: list[RerankResult | RerankError] = []
            try:
                for request, each in zip(requests, begun, strict=True):
                    outcomes.append(self._finish(request, each, began, deadline))
            finally:
                missing = len(requests) - len(outcomes)
                self._observer.ended(watched, [*outcomes, *[InternalError("not finished")] * missing])
            return outcomes

    def _begin(self, request: RerankRequest) -> Pending | RerankError:
        if len(request.documents) > self._max_documents:
            message = f"holds {len(request.documents)} documents, the limit is {self._max_documents}"
            return InvalidRequestError(message, field="documents")
        try:
            return self.scoring.begin(request)
        except RerankError as error:
            return error

    def _finish(
        self, request: RerankRequest, begun: Pending | RerankError, began: float, deadline: float
    ) -> RerankResult | RerankError:
        scored = begun if isinstance(begun, RerankError) else self.scoring.finish(begun, deadline)
        if isinstance(scored, RerankError):
            return scored
        order = rank(scored.logits, request.top_n)
        scores = to_scores(scored.logits[order], self.model.score_scale, raw=request.raw_scores)
        return RerankResult(
            request=request,
            order=order.tolist(),
            scores=scores.tolist(),
            truncated=scored.truncated[order].tolist(),
            tokens=scored.tokens,
            cached=scored.cached,
            model=self.model.model,
            latency_ms=(self._clock() - began) * 1000,
        )

    def mark_ready(self) -> None:
        """A real score was made; say so to `/ready`, unless we are leaving already."""
        if self.state == "loading":
            self.state = "ready"

    def drain(self) -> None:
        """Admit nothing new; what is admitted finishes. Only sets a flag, so a signal handler may call it."""
        self.state = "draining"

    @property
    def ongoing(self) -> int:
        """Requests at work."""
        return self._admission.ongoing


def _scored(begun: Sequence[Pending | RerankError]) -> int:
    return sum(each.scored for each in begun if isinstance(each, Pending))
