"""The use case: admit -> score -> rank -> result. Knows no HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

from webapp.concurrency import Waiter
from webapp.errors import DeadlineExceededError, InvalidRequestError, RerankError, UnavailableError
from webapp.ranking import rank, to_scores
from webapp.scheduling.admission import Admission
from webapp.scheduling.scheduler import Scheduler
from webapp.scheduling.ticket import Ticket
from webapp.types import ModelInfo, RerankRequest, RerankResult

State = Literal["loading", "ready", "draining"]


class RerankService:
    """Reranks, for any caller that can wait: `make_waiter` says how one waits here."""

    def __init__(
        self,
        *,
        model: ModelInfo,
        scheduler: Scheduler,
        admission: Admission,
        make_waiter: Callable[[], Waiter],
        max_documents: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self._scheduler = scheduler
        self._admission = admission
        self._make_waiter = make_waiter
        self._max_documents = max_documents
        self._clock = clock
        self.state: State = "loading"

    def rerank(self, request: RerankRequest, deadline: float) -> RerankResult:
        """Score and order one request.

        Args:
            request: what to rank.
            deadline: monotonic time at which the caller stops waiting.

        Raises:
            RerankError: see `webapp.errors`; nothing is left behind in the queue.
        """
        outcome = self.rerank_many([request], deadline)[0]
        if isinstance(outcome, RerankError):
            raise outcome
        return outcome

    def rerank_many(self, requests: Sequence[RerankRequest], deadline: float) -> list[RerankResult | RerankError]:
        """Score several requests together; each gets its own result or its own error, in the order given.

        Raises:
            OverloadedError, UnavailableError: none of them was begun.
        """
        if self.state == "draining":
            raise UnavailableError("the service is draining", retry_after_s=1)
        with self._admission.admit():
            # While the model loads, requests wait in the queue: a restart costs its callers a second, not an error.
            began = self._clock()
            submitted = [self._submit(request) for request in requests]
            return [
                entry if isinstance(entry, RerankError) else self._result(request, *entry, began, deadline)
                for request, entry in zip(requests, submitted, strict=True)
            ]

    def _submit(self, request: RerankRequest) -> tuple[Ticket, Waiter] | RerankError:
        if len(request.documents) > self._max_documents:
            message = f"holds {len(request.documents)} documents, the limit is {self._max_documents}"
            return InvalidRequestError(message, field="documents")
        waiter = self._make_waiter()
        return self._scheduler.submit(request.query, request.documents, waiter.wake), waiter

    def _result(
        self, request: RerankRequest, ticket: Ticket, waiter: Waiter, began: float, deadline: float
    ) -> RerankResult | RerankError:
        try:
            in_time = waiter.wait(max(0.0, deadline - self._clock()))
        except BaseException:
            # The caller is gone (its greenlet was killed): leave the queue with it.
            self._scheduler.cancel(ticket, UnavailableError("the caller is gone"))
            raise
        if not in_time:
            scored = f"{ticket.scored} of {len(request.documents)} documents were scored in time"
            self._scheduler.cancel(ticket, DeadlineExceededError(scored))
        if ticket.error is not None:
            return ticket.error
        order = rank(ticket.logits, request.top_n)
        scores = to_scores(ticket.logits[order], self.model.score_scale, raw=request.raw_scores)
        return RerankResult(
            request=request,
            order=order.tolist(),
            scores=scores.tolist(),
            truncated=ticket.truncated[order].tolist(),
            tokens=ticket.tokens,
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
