"""Running requests -> events. Reads how far they are four times a second, so engine threads pay nothing for it.

A request that ends before the next frame is told once, by its end: most are short, and this halves what they cost.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from contracts.events import OK, Accepted, Breaker, BreakerState, Event, Expired, Finished, Progress, Rejected, Shed
from webapp.domain.errors import DeadlineExceededError, OverloadedError, RerankError
from webapp.domain.types import RerankRequest, RerankResult
from webapp.telemetry.observer import Caller, Observer, Reply

log = logging.getLogger(__name__)

REPEAT_S = 1.0
"""A request that makes no progress is told again after this: a pusher that was restarted learns of it."""

MOST_QUERY_CHARS = 200

NOT_RANKED = frozenset({"/tokenize"})
"""Routes whose requests rank nothing, by POST."""

_PLACE = re.compile(r"[A-Za-z0-9_.$\[\]-]{1,64}")


@dataclass(slots=True, eq=False)
class _Running:
    caller: Caller
    pairs: int
    scored: Callable[[], int]
    began: float
    told: float
    told_scored: int = 0
    query: str = ""


class ProgressEvents:
    """An observer that publishes; see `webapp.telemetry.observer.Observer`. On the hub's thread."""

    def __init__(
        self,
        publish: Callable[[Event], None],
        *,
        with_text: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._publish = publish
        self._with_text = with_text
        self._clock = clock
        self._running: dict[int, _Running] = {}
        self._new: dict[int, _Running] = {}
        """Those whose admission is not told yet."""

    def accepted(self, caller: Caller, requests: Sequence[RerankRequest], scored: Callable[[], int]) -> _Running | None:
        """Requests were admitted together."""
        if caller.synthetic:
            return None
        now = self._clock()
        pairs = _pairs(requests)
        running = _Running(caller, pairs, scored, now, now)
        if self._with_text:
            running.query = " | ".join(request.query for request in requests)[:MOST_QUERY_CHARS]
        self._running[id(running)] = self._new[id(running)] = running
        return running

    def ended(self, token: object, outcomes: Sequence[RerankResult | RerankError]) -> None:
        """What was accepted has its outcomes."""
        if not isinstance(token, _Running):
            return
        self._running.pop(id(token), None)
        if self._new.pop(id(token), None) and token.query:
            self._tell_accepted(token)  # its end has no room for the query
        self._publish(_end_of(token, outcomes, (self._clock() - token.began) * 1000))

    def refused(self, caller: Caller, requests: Sequence[RerankRequest], error: RerankError) -> None:
        """Requests were not admitted."""
        if caller.synthetic:
            return
        reason = "full" if isinstance(error, OverloadedError) else error.code
        self._publish(
            Shed(
                id=caller.request_id,
                dialect=caller.dialect,
                owner=caller.owner,
                pairs=_pairs(requests),
                reason=reason,
            )
        )

    def replied(self, reply: Reply) -> None:
        """Publish an error that a request got before the service heard of it; an `OnReply`."""
        if reply.error is None or reply.watched or reply.method != "POST" or reply.route in NOT_RANKED:
            return
        self._publish(
            Rejected(
                id=reply.request_id,
                dialect=reply.dialect,
                owner=reply.owner,
                pairs=reply.facts.get("documents", 0),
                code=reply.error.code,
                http_status=reply.status,
                latency_ms=round(reply.seconds * 1000, 3),
                field=_place(reply.error),
            )
        )

    def breaker_changed(self, was: BreakerState, state: BreakerState) -> None:
        """Requests go to the engine, or no longer."""
        self._publish(Breaker(was=was, state=state))

    def tell_new(self) -> None:
        """Publish which requests were admitted since the last call, and still run."""
        if self._new:
            new, self._new = self._new, {}
            for running in new.values():
                self._tell_accepted(running)

    def _tell_accepted(self, running: _Running) -> None:
        caller = running.caller
        self._publish(
            Accepted(
                id=caller.request_id,
                dialect=caller.dialect,
                owner=caller.owner,
                pairs=running.pairs,
                query=running.query,
            )
        )

    def tick(self) -> None:
        """Publish how far every running request is, where that changed."""
        now = self._clock()
        for running in list(self._running.values()):
            scored = min(max(running.scored(), running.told_scored), running.pairs)
            if scored != running.told_scored or now - running.told >= REPEAT_S:
                running.told, running.told_scored = now, scored
                caller = running.caller
                self._publish(
                    Progress(
                        id=caller.request_id,
                        dialect=caller.dialect,
                        owner=caller.owner,
                        pairs=running.pairs,
                        scored=scored,
                        age_ms=round((now - running.began) * 1000, 1),
                    )
                )


def _pairs(requests: Sequence[RerankRequest]) -> int:
    return sum(len(request.documents) for request in requests)


def _place(error: RerankError) -> str:
    """Return where in the request an error is, unless that may be a text."""
    return error.field if error.field and _PLACE.fullmatch(error.field) else ""


def _end_of(running: _Running, outcomes: Sequence[RerankResult | RerankError], latency_ms: float) -> Event:
    caller, latency_ms = running.caller, round(latency_ms, 3)
    errors = [outcome for outcome in outcomes if isinstance(outcome, RerankError)]
    results = [outcome for outcome in outcomes if isinstance(outcome, RerankResult)]
    if any(isinstance(error, DeadlineExceededError) for error in errors):
        return Expired(
            id=caller.request_id,
            dialect=caller.dialect,
            owner=caller.owner,
            pairs=running.pairs,
            scored=min(running.scored(), running.pairs),
            latency_ms=latency_ms,
        )
    return Finished(
        id=caller.request_id,
        dialect=caller.dialect,
        owner=caller.owner,
        pairs=running.pairs,
        status=errors[0].code if errors else OK,
        latency_ms=latency_ms,
        field=_place(errors[0]) if errors else "",
        tokens=sum(result.tokens for result in results),
        queue_ms=_longest(result.spent.queue_ms for result in results),
        tokenise_ms=_longest(result.spent.tokenise_ms for result in results),
        score_ms=_longest(result.spent.score_ms for result in results),
        truncated=sum(sum(result.truncated) for result in results),
        cached=sum(result.cached for result in results),
        degraded=any(result.degraded for result in results),
    )


def _longest(parts_ms: Iterable[float]) -> float:
    """Return the longest of several parts, which are scored side by side."""
    return round(max(parts_ms, default=0.0), 3)


class SafeObserver:
    """Observers may fail; work may not: hands on to an observer, and keeps what it raises from the caller."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.failures = 0

    def accepted(self, caller: Caller, requests: Sequence[RerankRequest], scored: Callable[[], int]) -> object:
        """See `Observer`."""
        return self._guard(lambda: self._observer.accepted(caller, requests, scored))

    def ended(self, token: object, outcomes: Sequence[RerankResult | RerankError]) -> None:
        """See `Observer`."""
        self._guard(lambda: self._observer.ended(token, outcomes))

    def refused(self, caller: Caller, requests: Sequence[RerankRequest], error: RerankError) -> None:
        """See `Observer`."""
        self._guard(lambda: self._observer.refused(caller, requests, error))

    def _guard(self, watch: Callable[[], object]) -> object:
        try:
            return watch()
        except Exception:
            self.failures += 1
            if self.failures == 1:  # the first tells what is wrong; thousands would only fill the log
                log.exception("an observer failed; requests go on without it")
            return None
