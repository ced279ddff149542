"""The use case: admit -> truncate -> score -> rank -> result. Knows no HTTP."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from webapp.domain.concurrency import Offload, Waiter, run_inline
from webapp.domain.errors import (
    CancelledError,
    DeadlineExceededError,
    EngineFailedError,
    InternalError,
    InvalidRequestError,
    ModelNotFoundError,
    RerankError,
)
from webapp.domain.ranking import rank, to_scores
from webapp.domain.types import ModelInfo, ModelNames, RerankRequest, RerankResult, Scored, names_of
from webapp.engine.base import Texts
from webapp.scheduling.admission import Admission
from webapp.service.fallback import EngineFallback, lexical_result
from webapp.service.inflight import CallOptions, InflightScores, Pending
from webapp.service.truncation import QueryRead, Truncated, Truncator, collapse
from webapp.telemetry.observer import Caller, Observer

State = Literal["loading", "ready", "draining"]

Outcome = RerankResult | RerankError

REQUESTS_A_TURN = 64
"""Other callers have their turn after so many requests of one call."""

SHORT_QUERY_CHARS = 1000
"""A query of so many, with its instruction, is tokenised in less than a millisecond, on the hub; more is offloaded."""

INSTRUCTION_IGNORED = "instruction was ignored: this model takes none"


@dataclass(frozen=True, slots=True)
class _Begun:
    """A request whose scores are under way."""

    pending: Pending
    truncated: Truncated | None


@dataclass(slots=True)
class _Progress:
    """How far the requests of one call are. A call of it takes no longer for many requests than for few."""

    begun: Sequence[_Begun | Outcome]
    _finished: int = 0
    _scored: int = 0
    """Documents of the finished requests."""

    def finish(self, each: _Begun | Outcome) -> None:
        """Record that the next request has its outcome."""
        self._finished += 1
        self._scored += _scored([each])

    def __call__(self) -> int:
        """Return the number of documents that are scored by now; requests far from their turn count as none."""
        return self._scored + _scored(self.begun[self._finished : self._finished + REQUESTS_A_TURN])


def _scored(begun: Sequence[_Begun | Outcome]) -> int:
    return sum([each.pending.scored for each in begun if isinstance(each, _Begun)])


class RerankService:
    """The reranking service, for any caller that can wait."""

    def __init__(
        self,
        *,
        model: ModelInfo,
        scoring: InflightScores,
        admission: Admission,
        max_documents: int,
        texts: Texts,
        offload: Offload = run_inline,
        strict_model: bool = False,
        names: ModelNames | None = None,
        fallback: EngineFallback | None = None,
        drains: Callable[[], bool] = bool,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wire up.

        Args:
            model: what is served.
            scoring: where scores come from.
            admission: limits what is at work.
            max_documents: most documents of one request.
            texts: the engine's tokenizer.
            offload: tokenises long texts when a request wants them cut or divided.
            strict_model: whether a request that names another model is refused.
            names: what the model is called; None: by its id.
            fallback: what requests get while the engine fails.
            drains: returns whether the stack drains.
            observer: follows requests.
            clock: monotonic seconds.
        """
        self.model = model
        self.scoring = scoring
        self.texts = texts
        self.offload = offload
        self.max_documents = max_documents
        self.max_ongoing_requests = admission.max_ongoing_requests
        self.admission = admission
        self._strict_model = strict_model
        self.names = names or names_of(model)
        self.fallback = fallback or EngineFallback()
        self._observer = observer or Observer()
        self._clock = clock
        self.scores_fingerprint = ""
        """Hash of the logits that this machine gives known pairs; see `webapp.engine.base.Engine`."""
        self.loaded = False
        """Whether a real score was made."""
        self._waiting: list[Waiter] = []
        """Callers of `wait_loaded`."""
        self._drains = drains
        self._leaves = False

    @property
    def readiness(self) -> State:
        """What `/ready` says: of the whole stack. A worker that another one replaces is ready all the same."""
        return "draining" if self._drains() else "ready" if self.loaded else "loading"

    @property
    def state(self) -> State:
        """How this process is. In each state it serves what reaches it; while it loads, requests wait."""
        return "draining" if self._leaves else self.readiness

    def report_refused(self, caller: Caller, error: RerankError) -> None:
        """Report to the observer that a request was refused before it was read."""
        self._observer.refused(caller, (), error)

    def rerank(self, request: RerankRequest, options: CallOptions) -> RerankResult:
        """Score and order one request; see `rerank_all`."""
        return self.rerank_all([request], options)[0]

    def rerank_all(self, requests: Sequence[RerankRequest], options: CallOptions) -> list[RerankResult]:
        """Score and order the parts of what the caller sees as one request.

        Raises:
            RerankError: see `webapp.domain.errors`; nothing is left behind in the queue.
        """
        if len(requests) > 1:  # each one is checked by itself, too
            self._check_size(sum(len(request.documents) for request in requests))
        results = []
        for outcome in self.rerank_many(requests, options):
            if isinstance(outcome, RerankError):
                raise outcome
            results.append(outcome)
        return results

    def rerank_many(self, requests: Sequence[RerankRequest], options: CallOptions) -> list[Outcome]:
        """Score several requests together; each gets its own result or its own error, in the order given.

        Raises:
            OverloadedError, UnavailableError, PayloadTooLargeError: none of them was begun.
        """
        requests = [self._with_used_instruction(request) for request in requests]
        with contextlib.ExitStack() as held:
            try:
                if not options.arrived:
                    self.admission.check()
                    held.enter_context(self.admission.arrive(0))
                place = held.enter_context(self.admission.admit(requests, options.deadline))
            except RerankError as error:
                self._observer.refused(options.caller, requests, error)
                raise
            # While the model loads, requests wait in the queue: a restart costs its callers a second, not an error.
            began = self._clock()
            begun: list[_Begun | Outcome] = []
            watched = self._observer.accepted(options.caller, requests, progress := _Progress(begun))
            outcomes: list[Outcome] = []
            try:
                # One by one, should one raise.
                begun.extend(self._begin(request, options, began) for request in self._taking_turns(requests))
                self.admission.queued(place)
                for request, each in zip(self._taking_turns(requests), begun, strict=True):
                    outcomes.append(self._finish(request, each, began))
                    progress.finish(each)
                    if isinstance(outcomes[-1], CancelledError):
                        raise outcomes[-1]
            finally:
                for each in begun:
                    if isinstance(each, _Begun):
                        self.scoring.give_up(each.pending)
                missing = len(requests) - len(outcomes)
                self._observer.ended(watched, [*outcomes, *[InternalError("not finished")] * missing])
            return outcomes

    def _taking_turns(self, requests: Sequence[RerankRequest]) -> Iterator[RerankRequest]:
        """Yield each request; other callers have their turn after some, for a call may hold thousands."""
        for place, request in enumerate(requests, 1):
            yield request
            if not place % REQUESTS_A_TURN:
                self.scoring.make_waiter().wait(0)

    def _with_used_instruction(self, request: RerankRequest) -> RerankRequest:
        """Return a request without an instruction that the model does not take, or that is its default.

        So pairs that score the same have the same key.
        """
        if request.instruction is None:
            return request
        if self.model.instruction is None:
            return replace(request, instruction=None, warnings=(*request.warnings, INSTRUCTION_IGNORED))
        return replace(request, instruction=None) if request.instruction == self.model.instruction else request

    def check_model(self, name: str | None) -> None:
        """Check the model that a request names, where the settings are strict.

        Raises:
            ModelNotFoundError: another model is served.
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

    def _begin(self, request: RerankRequest, options: CallOptions, began: float) -> _Begun | Outcome:
        try:
            self._check_size(len(request.documents))
            self.check_model(request.model)
            truncated = self.offload(lambda: self._truncate(request)) if request.truncation else None
            scored = truncated.request if truncated else request
            # Cached scores need no engine, so its state does not matter.
            needs_engine = self.fallback.breaker.state != "closed" and not self.scoring.knows(scored)
            if needs_engine and (lexical := self.fallback.substitute(request)):
                return lexical_result(request, self.offload(lexical), (self._clock() - began) * 1000)
            return _Begun(self.scoring.begin(scored, options), truncated)
        except RerankError as error:
            return error

    @property
    def _truncator(self) -> Truncator:
        return Truncator(self.texts, self.model.max_length_tokens)

    def _truncate(self, request: RerankRequest) -> Truncated | None:
        try:
            return self._truncator.truncate(request, max_windows=self.max_documents)
        except RerankError:
            raise
        except Exception as cause:  # the border: whatever a tokenizer raises ends here
            raise EngineFailedError("the request could not be tokenised") from cause

    def _finish(self, request: RerankRequest, each: _Begun | Outcome, began: float) -> Outcome:
        if not isinstance(each, _Begun):
            return each
        scored = self.scoring.finish(each.pending)
        self.fallback.report(scored)
        if isinstance(scored, RerankError):
            return scored
        if self._clock() >= each.pending.options.deadline:  # the scores are in the cache for another try
            total = len(scored.logits)
            figures = {"scored": total, "total": total}
            return DeadlineExceededError(f"all {total} documents were scored, too late", figures=figures)
        spans: list[tuple[int, int] | None] = []
        asked = each.truncated.request if each.truncated else request
        read = self._query_read(asked, scored)
        if each.truncated:
            read = replace(read, cut=each.truncated.query_cut)
            scored, spans = collapse(scored, each.truncated)
        elif request.truncation and request.truncation.strict and (read.cut or scored.truncated.any()):
            return self.offload(lambda: self._truncator.too_long(request, scored))
        order = rank(scored.logits, request.top_n)
        scores = to_scores(
            scored.logits[order], self.model.score_scale, raw=request.raw_scores, temperature=self.model.temperature
        )
        places = order.tolist()
        truncated = scored.truncated[order].tolist()
        if read.cut and self.texts.query_takes_room and not each.truncated:
            truncated = self.offload(lambda: self._truncator.documents_cut(request, scored, places))
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

    def _query_read(self, request: RerankRequest, scored: Scored) -> QueryRead:
        chars = len(request.query) + len(request.instruction or "")
        run = run_inline if chars <= SHORT_QUERY_CHARS else self.offload
        return run(lambda: self._truncator.query_read(request, scored))

    def mark_ready(self) -> None:
        """Record that a real score was made."""
        self.loaded = True
        while self._waiting:
            self._waiting.pop().wake()

    def wait_loaded(self, timeout_s: float) -> None:
        """Sleep until a real score was made, or `timeout_s` passed."""
        if self.readiness == "loading":
            self._waiting.append(waiter := self.scoring.make_waiter())
            waiter.wait(timeout_s)

    def leave(self) -> None:
        """Note that this process ends when its connections are closed. Signal-safe: only sets a flag.

        The server closes connections one by one; a request that came through one before was accepted, so it is served.
        """
        self._leaves = True

    @property
    def ongoing(self) -> int:
        """Requests at work."""
        return self.admission.ongoing
