"""Replies -> metrics. On the hub's thread, for every request, so it does as little as it can.

How many were answered is written through, so that a killed worker takes no request out of the count. The rest is
tallied in memory, which costs a fifth of that, and `publish`ed once a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter

from webapp.domain.errors import CancelledError, DeadlineExceededError, OverloadedError, RerankError, UnavailableError
from webapp.telemetry.histogram import DOCUMENTS, REQUEST_TOKENS, SECONDS, BucketCounts
from webapp.telemetry.metrics import Metrics
from webapp.telemetry.observer import Reply

MOST_CHILDREN = 2000
"""Combinations of route, dialect and status that are counted apart; there are far fewer, unless something is wrong."""


class Meter:
    """Counts replies; `replied` is an `OnReply`, see `webapp.telemetry.observer`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._answered: dict[tuple[str, str, int], Counter] = {}
        self._tallies = {
            metrics.duration: BucketCounts(SECONDS),
            metrics.queue: BucketCounts(SECONDS),
            metrics.tokenise: BucketCounts(SECONDS),
            metrics.score: BucketCounts(SECONDS),
            metrics.documents: BucketCounts(DOCUMENTS),
            metrics.tokens: BucketCounts(REQUEST_TOKENS),
        }
        self._duration = self._tallies[metrics.duration]
        self._queue = self._tallies[metrics.queue]
        self._tokenise = self._tallies[metrics.tokenise]
        self._score = self._tallies[metrics.score]
        self._documents = self._tallies[metrics.documents]
        self._tokens = self._tallies[metrics.tokens]

    def replied(self, reply: Reply) -> None:
        """A request of any route was answered."""
        key = reply.route, reply.dialect, reply.status
        answered = self._answered.get(key)
        if answered is None:
            if len(self._answered) >= MOST_CHILDREN:
                return
            answered = self._answered[key] = self._metrics.requests.labels(*map(str, key))
        answered.inc()
        if reply.error is not None:
            self._count_failure(reply.error)
        elif reply.ranked:
            self._count_ranked(reply.seconds, reply.facts)

    def publish(self) -> None:
        """Hand the tallies over."""
        for histogram, tally in self._tallies.items():
            histogram.publish(tally)

    def _count_ranked(self, seconds: float, facts: Mapping[str, Any]) -> None:
        self._duration.add(seconds)
        self._documents.add(facts["documents"])
        if facts.get("degraded"):
            self._metrics.degraded_requests.inc()
            return
        self._tokens.add(facts["tokens"])
        self._queue.add(facts["queue_ms"] / 1000)
        self._tokenise.add(facts["tokenise_ms"] / 1000)
        self._score.add(facts["score_ms"] / 1000)

    def _count_failure(self, error: RerankError) -> None:
        if isinstance(error, DeadlineExceededError):
            self._metrics.expired.labels(_how_far(error)).inc()
        elif isinstance(error, CancelledError):
            self._metrics.cancelled.inc()
        elif error.reason or isinstance(error, OverloadedError | UnavailableError):
            self._metrics.shed.labels(error.reason or error.code).inc()


def _how_far(error: DeadlineExceededError) -> str:
    scored, total = error.figures.get("scored", 0), error.figures.get("total", 0)
    if not scored:
        return "waiting"
    return "scoring" if scored < total else "reply"
