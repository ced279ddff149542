"""Running requests -> events. Reads how far they are four times a second, so engine threads pay nothing for it.

A request that ends before the next frame gets one event, its end: most are short, and this halves their cost.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.events import OK, Accepted, Breaker, BreakerState, Event, Expired, Finished, Progress, Rejected, Shed
from webapp.domain.errors import DeadlineExceededError, OverloadedError, RerankError
from webapp.domain.types import RerankRequest, RerankResult
from webapp.telemetry.observer import Caller, Observer, Reply

REPEAT_S = 1.0
"""A request that makes no progress is published again after this: a pusher that was restarted learns of it."""

MOST_QUERY_CHARS = 200

NOT_RANKED = frozenset({"/tokenize"})
"""Routes whose requests rank nothing, by POST."""

_FIELD = re.compile(r"[A-Za-z0-9_.$\[\]-]{1,64}")


@dataclass(slots=True, eq=False)
class _Running:
    caller: Caller
    pairs: int
    scored: Callable[[], int]
    began: float
    published: float
    published_scored: int = 0
    query: str = ""
    announced: bool = False
    """Whether its admission is published."""


class ProgressEvents(Observer):
    """An observer that publishes events. All calls come on the hub's thread."""

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

    def accepted(self, caller: Caller, requests: Sequence[RerankRequest], scored: Callable[[], int]) -> _Running | None:
        """Keep requests that were admitted together; see `Observer`."""
        if caller.synthetic:
            return None
        now = self._clock()
        pairs = _pairs(requests)
        running = _Running(caller, pairs, scored, now, now)
        if self._with_text:
            running.query = " | ".join(request.query for request in requests)[:MOST_QUERY_CHARS]
        self._running[id(running)] = running
        return running

    def ended(self, token: object, outcomes: Sequence[RerankResult | RerankError]) -> None:
        """Publish how requests ended; see `Observer`."""
        if not isinstance(token, _Running):
            return
        self._running.pop(id(token), None)
        if token.query and not token.announced:
            self._publish_accepted(token)  # its end has no room for the query
        self._publish(_end_of(token, outcomes, (self._clock() - token.began) * 1000))

    def refused(self, caller: Caller, requests: Sequence[RerankRequest], error: RerankError) -> None:
        """Publish that requests were not admitted; see `Observer`."""
        if caller.synthetic:
            return
        reason = "full" if isinstance(error, OverloadedError) else error.code
        self._publish(Shed(**_of(caller, _pairs(requests)), reason=reason))

    def replied(self, reply: Reply) -> None:
        """Publish an error that a request got before it reached the service."""
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
                field=_field(reply.error),
            )
        )

    def breaker_changed(self, was: BreakerState, state: BreakerState) -> None:
        """Publish whether requests go to the engine."""
        self._publish(Breaker(was=was, state=state))

    def publish_new(self) -> None:
        """Publish the requests that were admitted since the last call and still run."""
        for running in list(self._running.values()):
            if not running.announced:
                self._publish_accepted(running)

    def _publish_accepted(self, running: _Running) -> None:
        running.announced = True
        self._publish(Accepted(**_of(running.caller, running.pairs), query=running.query))

    def tick(self) -> None:
        """Publish how far each running request is, where that changed or `REPEAT_S` passed."""
        now = self._clock()
        for running in list(self._running.values()):
            scored = min(max(running.scored(), running.published_scored), running.pairs)
            if scored != running.published_scored or now - running.published >= REPEAT_S:
                running.published, running.published_scored = now, scored
                age_ms = round((now - running.began) * 1000, 1)
                self._publish(Progress(**_of(running.caller, running.pairs), scored=scored, age_ms=age_ms))


def _of(caller: Caller, pairs: int) -> dict[str, Any]:
    """Return what every event of a request says."""
    return {"id": caller.request_id, "dialect": caller.dialect, "owner": caller.owner, "pairs": pairs}


def _pairs(requests: Sequence[RerankRequest]) -> int:
    return sum(len(request.documents) for request in requests)


def _field(error: RerankError) -> str:
    """Return the field of the request that is wrong; empty where it may hold a text."""
    return error.field if error.field and _FIELD.fullmatch(error.field) else ""


def _end_of(running: _Running, outcomes: Sequence[RerankResult | RerankError], latency_ms: float) -> Event:
    of, latency_ms = _of(running.caller, running.pairs), round(latency_ms, 3)
    errors = [outcome for outcome in outcomes if isinstance(outcome, RerankError)]
    results = [outcome for outcome in outcomes if isinstance(outcome, RerankResult)]
    if any(isinstance(error, DeadlineExceededError) for error in errors):
        return Expired(**of, scored=min(running.scored(), running.pairs), latency_ms=latency_ms)
    return Finished(
        **of,
        status=errors[0].code if errors else OK,
        latency_ms=latency_ms,
        field=_field(errors[0]) if errors else "",
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
