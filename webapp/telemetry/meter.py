"""What happens to requests -> metrics. On the hub's thread, for every request, so it does as little as it can.

How many were answered is written through, so that a killed worker takes no request out of the count. The rest is
tallied in memory, which costs a fifth of that, and `publish`ed once a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import Counter

from webapp.errors import CancelledError, DeadlineExceededError, OverloadedError, RerankError, UnavailableError
from webapp.tally import DOCUMENTS, REQUEST_TOKENS, SECONDS, Tally
from webapp.telemetry.metrics import Metrics
from webapp.telemetry.observer import Caller, Reply
from webapp.types import RerankRequest, RerankResult

MOST_CHILDREN = 2000
"""Combinations of route, dialect and status that are counted apart; there are far fewer, unless something is wrong."""


class Meter:
    """An observer of requests, and of replies; see `webapp.telemetry.observer`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._answered: dict[tuple[str, str, int], Counter] = {}
        self._tallies = {
            metrics.duration: Tally(SECONDS),
            metrics.queue: Tally(SECONDS),
            metrics.tokenise: Tally(SECONDS),
            metrics.score: Tally(SECONDS),
            metrics.documents: Tally(DOCUMENTS),
            metrics.tokens: Tally(REQUEST_TOKENS),
        }
        self._duration = self._tallies[metrics.duration]
        self._queue = self._tallies[metrics.queue]
        self._tokenise = self._tallies[metrics.tokenise]
        self._score = self._tallies[metrics.score]
        self._documents = self._tallies[metrics.documents]
        self._tokens = self._tallies[metrics.tokens]

    def accepted(self, caller: Caller, requests: Sequence[RerankRequest], scored: Callable[[], int]) -> object:
        """Nothing: what counts is how they end."""

    def ended(self, token: object, outcomes: Sequence[RerankResult | RerankError]) -> None:
        """Each part of what the caller sees as one request counts by itself."""
        del token
        for outcome in outcomes:
            if isinstance(outcome, RerankResult):
                self._documents.add(len(outcome.request.documents))
                if outcome.degraded:
                    self._metrics.degraded_requests.inc()
                    continue
                self._tokens.add(outcome.tokens)
                spent = outcome.spent
                self._queue.add(spent.queue_ms / 1000)
                self._tokenise.add(spent.tokenise_ms / 1000)
                self._score.add(spent.score_ms / 1000)
            elif isinstance(outcome, DeadlineExceededError):
                self._metrics.expired.labels(_how_far(outcome)).inc()
            elif isinstance(outcome, CancelledError):
                self._metrics.cancelled.inc()
            elif isinstance(outcome, OverloadedError | UnavailableError):
                self._refuse(outcome)

    def refused(self, caller: Caller, requests: Sequence[RerankRequest], error: RerankError) -> None:
        """Not admitted."""
        del caller, requests
        self._refuse(error)

    def replied(self, reply: Reply) -> None:
        """A request of any route was answered."""
        key = reply.route, reply.dialect, reply.status
        answered = self._answered.get(key)
        if answered is None:
            if len(self._answered) >= MOST_CHILDREN:
                return
            answered = self._answered[key] = self._metrics.requests.labels(*map(str, key))
        answered.inc()
        if reply.ranked:
            self._duration.add(reply.seconds)

    def publish(self) -> None:
        """Hand the tallies over."""
        for histogram, tally in self._tallies.items():
            histogram.publish(tally)

    def _refuse(self, error: RerankError) -> None:
        self._metrics.shed.labels(error.reason or error.code).inc()


def _how_far(error: DeadlineExceededError) -> str:
    scored, total = error.figures.get("scored", 0), error.figures.get("total", 0)
    if not scored:
        return "waiting"
    return "scoring" if scored < total else "reply"
