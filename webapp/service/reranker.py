"""The use case: admit -> fit -> score -> rank -> result. Knows no HTTP."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from webapp.domain.concurrency import Offload, Waiter, run_inline
from webapp.domain.errors import (
    CancelledError,
    DeadlineExceededError,
    EngineFailedError,
    InternalError,
    InvalidRequestError,
    ModelNotFoundError,
    RerankError,
    UnavailableError,
)
from webapp.domain.ranking import rank, to_scores
from webapp.domain.types import ModelInfo, RerankRequest, RerankResult, Scored
from webapp.engine.base import Texts
from webapp.scheduling.admission import Admission, Arrival
from webapp.scheduling.breaker import State as BreakerState
from webapp.service.fallback import EngineFallback, lexical_result
from webapp.service.inflight import InflightScores, Pending, ScoringTerms, Watch
from webapp.service.model_names import ModelNames, names_of
from webapp.service.truncation import QueryRead, Truncated, collapse, documents_cut, fit, query_read, too_long
from webapp.telemetry.observer import Caller, NullObserver, Observer

State = Literal["loading", "ready", "draining"]

REQUESTS_A_TURN = 64

NOBODY = Caller(request_id="", dialect="")

SHORT_QUERY_CHARS = 1000
"""A query of so many is tokenised in less than a millisecond, on the hub; a longer one elsewhere."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A request whose scores are under way."""

    pending: Pending
    fitted: Truncated | None


@dataclass(frozen=True, slots=True)
class _Lexical:
    """A request whose scores are those of the lexical engine."""

    scores: NDArray[np.float32]


@dataclass(slots=True)
class _Course:
    """How far the requests of one call are. To ask takes no longer for many requests than for few."""

    begun: Sequence[_Begun | _Lexical | RerankError]
    _finished: int = 0
    _scored: int = 0
    """Documents of the finished ones."""

    def finish(self, each: _Begun | _Lexical | RerankError) -> None:
        """Note that the next request has its outcome."""
        self._finished += 1
        self._scored += _scored([each])

    def __call__(self) -> int:
        """Return the documents that are scored by now, of those far from their turn none."""
        return self._scored + _scored(self.begun[self._finished : self._finished + REQUESTS_A_TURN])


def _scored(begun: Sequence[_Begun | _Lexical | RerankError]) -> int:
    return sum([each.pending.scored for each in begun if isinstance(each, _Begun)])


class RerankService:
    """Reranks, for any caller that can wait."""

    def __init__(
        self,
        *,
        model: ModelInfo,
        scoring: InflightScores,
        admission: Admission,
        max_documents: int,
        texts: Texts,
        elsewhere: Offload = run_inline,
        strict_model: bool = False,
        names: ModelNames | None = None,
        guard: EngineFallback | None = None,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wire up.

        Args:
            model: what is served.
            scoring: where scores come from.
            admission: who may come in.
            max_documents: most documents of one request.
            texts: the engine's tokenizer.
            elsewhere: where long texts are tokenised when a request wants them cut or divided.
            strict_model: whether a request that names another model is refused.
            names: what the model is called; None: by its id.
            guard: stands before the engine.
            observer: told what happens.
            clock: monotonic seconds.
        """
        self.model = model
        self.scoring = scoring
        self.texts = texts
        self.elsewhere = elsewhere
        self.max_documents = max_documents
        self.max_ongoing_requests = admission.max_ongoing_requests
        self._admission = admission
        self._strict_model = strict_model
        self.names = names or names_of(model)
        self._guard = guard or EngineFallback()
        self._observer = observer or NullObserver()
        self._clock = clock
        self.state: State = "loading"
        self.loaded = False
        """Whether a real score was made."""
        self._expecting: list[Waiter] = []
        self.left_as: State | None = None

    def check_room(self) -> None:
        """Refuse what can't come in whatever it holds, before anything is read of it.

        Raises:
            OverloadedError, UnavailableError: nothing comes in now.
        """
        if self.state == "draining" and not self.left_as:
            raise UnavailableError("the service is draining", retry_after_s=1, reason="draining")
        self._admission.check()

    def arrive(self, body_bytes: int) -> AbstractContextManager[Arrival]:
        """Hold a place for a request from before its body is read; see `Admission.arrive`."""
        return self._admission.arrive(body_bytes)

    def tell_refused(self, caller: Caller, error: RerankError) -> None:
        """Somebody was refused before the request was read."""
        self._observer.refused(caller, (), error)

    def rerank(self, request: RerankRequest, deadline: float, caller: Caller = NOBODY) -> RerankResult:
        """Score and order one request; see `rerank_all`."""
        return self.rerank_all([request], deadline, caller)[0]

    def rerank_all(
        self,
        requests: Sequence[RerankRequest],
        deadline: float,
        caller: Caller = NOBODY,
        watch: Watch = contextlib.nullcontext,
        *,
        arrived: bool = False,
    ) -> list[RerankResult]:
        """Score and order the parts of what the caller sees as one request.

        Args:
            requests: what to rank.
            deadline: monotonic time at which the caller stops waiting.
            caller: whose request it is, for those who watch.
            watch: over the caller, while it waits.
            arrived: whether it holds a place by `arrive`.

        Raises:
            RerankError: see `webapp.domain.errors`; nothing is left behind in the queue.
        """
        if len(requests) > 1:  # each is checked by itself, too
            self._check_size(sum(len(request.documents) for request in requests))
        results = []
        for outcome in self.rerank_many(requests, deadline, caller, watch, arrived=arrived):
            if isinstance(outcome, RerankError):
                raise outcome
            results.append(outcome)
        return results

    def rerank_many(
        self,
        requests: Sequence[RerankRequest],
        deadline: float,
        caller: Caller = NOBODY,
        watch: Watch = contextlib.nullcontext,
        *,
        arrived: bool = False,
    ) -> list[RerankResult | RerankError]:
        """Score several requests together; each gets its own result or its own error, in the order given.

        Raises:
            OverloadedError, UnavailableError, PayloadTooLargeError: none of them was begun.
        """
        with contextlib.ExitStack() as held:
            try:
                if not arrived:  # who was let in finishes, though the service is draining by now
                    self.check_room()
                place = held.enter_context(self._admission.admit(requests, deadline, arrived=arrived))
            except RerankError as error:
                self._observer.refused(caller, requests, error)
                raise
            # While the model loads, requests wait in the queue: a restart costs its callers a second, not an error.
            began = self._clock()
            begun: list[_Begun | _Lexical | RerankError] = []
            watched = self._observer.accepted(caller, requests, course := _Course(begun))
            outcomes: list[RerankResult | RerankError] = []
            terms = ScoringTerms(deadline, caller.client)
            try:
                # One by one, should one raise.
                begun.extend(self._begin(request, terms) for request in self._taking_turns(requests))
                self._admission.queued(place)
                for request, each in zip(self._taking_turns(requests), begun, strict=True):
                    outcomes.append(self._finish(request, each, began, deadline, watch))
                    course.finish(each)
                    if isinstance(outcomes[-1], CancelledError):
                        raise outcomes[-1]
            finally:
                for each in begun:
                    if isinstance(each, _Begun):
                        self.scoring.leave(each.pending)
                missing = len(requests) - len(outcomes)
                self._observer.ended(watched, [*outcomes, *[InternalError("not finished")] * missing])
            return outcomes

    def _taking_turns(self, requests: Sequence[RerankRequest]) -> Iterator[RerankRequest]:
        """Yield each request; others have their turn after some, for a call may hold thousands."""
        for place, request in enumerate(requests, 1):
            yield request
            if not place % REQUESTS_A_TURN:
                self.scoring.make_waiter().wait(0)

    def check_model(self, name: str | None) -> None:
        """Mind the model's name, when told to.

        Raises:
            ModelNotFoundError: it is not the one that is served.
        """
        if not self._strict_model or not name or self.names.include(name):
            return
        instead = f", in place of {self.model.substitute_for}" if self.model.substitute_for else ""
        raise ModelNotFoundError(
            f"the model {name[:200]!r} is not served here; this is {self.names.first}{instead}", field="model"
        )

    def _check_size(self, documents: int) -> None:
        if documents > self.max_documents:
            message = f"holds {documents} documents, the limit is {self.max_documents}"
            raise InvalidRequestError(message, field="documents")

    def _begin(self, request: RerankRequest, terms: ScoringTerms) -> _Begun | _Lexical | RerankError:
        try:
            self._check_size(len(request.documents))
            self.check_model(request.model)
            fitted = self.elsewhere(lambda: self._fit(request)) if request.fitting else None
            asked = fitted.request if fitted else request
            # What is known needs no engine, so the state of that is no matter.
            if not (self._guard.closed or self.scoring.knows(asked)) and (instead := self._guard.instead(request)):
                return _Lexical(self.elsewhere(instead))
            return _Begun(self.scoring.begin(asked, terms), fitted)
        except RerankError as error:
            return error

    def _fit(self, request: RerankRequest) -> Truncated | None:
        limit = self.model.max_length_tokens
        try:
            return fit(request, self.texts, max_length_tokens=limit, max_windows=self.max_documents)
        except RerankError:
            raise
        except Exception as cause:  # the border: whatever a tokenizer raises ends here
            raise EngineFailedError("the request could not be tokenised") from cause

    def _finish(
        self, request: RerankRequest, each: _Begun | _Lexical | RerankError, began: float, deadline: float, watch: Watch
    ) -> RerankResult | RerankError:
        if isinstance(each, RerankError):
            return each
        if isinstance(each, _Lexical):
            return lexical_result(request, each.scores, (self._clock() - began) * 1000)
        scored = self.scoring.finish(each.pending, deadline, watch)
        self._guard.note(scored)
        if isinstance(scored, RerankError):
            return scored
        if self._clock() >= deadline:  # the scores are in the cache for another try
            total = len(scored.logits)
            figures = {"scored": total, "total": total}
            return DeadlineExceededError(f"all {total} documents were scored, too late", figures=figures)
        spans: list[tuple[int, int] | None] = []
        asked = each.fitted.request if each.fitted else request
        read = self._query_read(asked.query, scored)
        if each.fitted:
            read = replace(read, cut=each.fitted.query_cut)
            scored, spans = collapse(scored, each.fitted)
        elif request.fitting and request.fitting.strict and (read.cut or scored.truncated.any()):
            error: InvalidRequestError = self.elsewhere(
                lambda: too_long(request, scored, self.texts, max_length_tokens=self.model.max_length_tokens)
            )
            return error
        order = rank(scored.logits, request.top_n)
        scores = to_scores(scored.logits[order], self.model.score_scale, raw=request.raw_scores)
        places = order.tolist()
        truncated = scored.truncated[order].tolist()
        if read.cut and self.texts.query_takes_room and not each.fitted:
            limit = self.model.max_length_tokens
            truncated = self.elsewhere(
                lambda: documents_cut(request, scored, places, self.texts, max_length_tokens=limit)
            )
        return RerankResult(
            request=request,
            order=places,
            scores=scores.tolist(),
            truncated=truncated,
            tokens=scored.tokens + read.tokens,
            cached=scored.cached,
            model=self.model.model,
            name=self.names.first,
            latency_ms=(self._clock() - began) * 1000,
            spans=[spans[index] for index in places] if any(spans) else (),
            query_cut=read.cut,
            spent=scored.spent,
        )

    def _query_read(self, query: str, scored: Scored) -> QueryRead:
        def read() -> QueryRead:
            return query_read(query, scored, self.texts, max_length_tokens=self.model.max_length_tokens)

        return read() if len(query) <= SHORT_QUERY_CHARS else self.elsewhere(read)

    def mark_ready(self) -> None:
        """A real score was made; say so to `/ready`, unless we are leaving already."""
        self.loaded = True
        if self.state == "loading":
            self.state = "ready"
        while self._expecting:
            self._expecting.pop().wake()

    def wait_loaded(self, timeout_s: float) -> None:
        """Sleep until a real score was made, or `timeout_s` passed."""
        if self.state == "loading":
            self._expecting.append(waiter := self.scoring.make_waiter())
            waiter.wait(timeout_s)

    def drain(self) -> None:
        """Admit nothing new; what is admitted finishes. Only sets a flag, so a signal handler may call it."""
        self.state = "draining"

    def leave(self) -> None:
        """Another worker takes over, but what still reaches us is answered. Only sets flags.

        The doors are closed by the server, connection by connection; a request that came through one before was
        accepted, and refusing it would lose it. A probe among them must not hear that nobody is ready.
        """
        if self.state != "draining":
            self.left_as, self.state = self.state, "draining"

    @property
    def breaker(self) -> BreakerState:
        """closed, open or half_open."""
        return self._guard.breaker.state

    @property
    def body_memory_bytes(self) -> int:
        """Memory that is charged for large bodies of this process."""
        return self._admission.body_memory_bytes

    @property
    def body_changes(self) -> int:
        """Times that this changed."""
        return self._admission.body_changes

    @property
    def ongoing(self) -> int:
        """Requests at work."""
        return self._admission.ongoing
