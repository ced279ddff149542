"""Scores for one request's pairs: from the cache, from another request that is scoring them now, or from the engine.

Laws: a pair is scored once, however often it is asked for; a request waits for pairs of another one but does not depend
on it: if that one gives up, the rest is submitted anew. Runs on the hub's thread only, so it needs no lock.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np

from webapp.cache.keys import pair_keys
from webapp.cache.memory import MemoryCache, PairScore
from webapp.concurrency import Waiter
from webapp.errors import DeadlineExceededError, RerankError, UnavailableError
from webapp.scheduling.scheduler import Scheduler
from webapp.scheduling.ticket import Ticket
from webapp.types import RerankRequest, Scored


@dataclass(frozen=True, slots=True, eq=False)
class _Flight:
    """Pairs on their way through the scheduler; whoever wants one of them waits here."""

    ticket: Ticket
    waiter: Waiter
    places: dict[Hashable, int]
    """Key -> index in the ticket."""

    def scores(self) -> dict[Hashable, PairScore]:
        ticket = self.ticket
        columns = zip(ticket.logits.tolist(), ticket.truncated.tolist(), ticket.lengths.tolist(), strict=True)
        return dict(zip(self.places, itertools.starmap(PairScore, columns), strict=True))


@dataclass(slots=True)
class Pending:
    """A request whose scores are under way."""

    request: RerankRequest
    keys: list[Hashable]
    """One a document; equal documents have equal keys."""
    found: dict[Hashable, PairScore]
    cached: int
    own: _Flight | None = None
    borrowed: list[_Flight] = field(default_factory=list)

    @property
    def scored(self) -> int:
        """Documents whose scores are known by now; an estimate where flights carry more than this request asked for."""
        flights = [self.own.ticket] if self.own else []
        flights += [flight.ticket for flight in self.borrowed]
        carried = sum(len(ticket.documents) for ticket in flights)
        if not carried:
            return len(self.keys)
        done = sum(ticket.scored for ticket in flights)
        return self.cached + (len(self.keys) - self.cached) * done // carried


class Scoring:
    """Begin any number of requests, then finish each."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        cache: MemoryCache | None,
        artifact: str,
        make_waiter: Callable[[], Waiter],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self.cache = cache
        self._artifact = artifact
        self._make_waiter = make_waiter
        self._clock = clock
        self._flights: dict[Hashable, _Flight] = {}
        self._unique = itertools.count()

    def begin(self, request: RerankRequest) -> Pending:
        """Submit what neither the cache nor another request has.

        Raises:
            UnavailableError: the scheduler was closed.
        """
        if self.cache is None:
            keys: list[Hashable] = list(itertools.islice(self._unique, len(request.documents)))
            pending = Pending(request, keys, {}, 0)
        else:
            digests = pair_keys(self._artifact, request.query, request.documents)
            found = self.cache.get_many(digests)
            pending = Pending(request, list(digests), found, sum(digest in found for digest in digests))
        self._launch(pending)
        return pending

    def finish(self, pending: Pending, deadline: float) -> Scored | RerankError:
        """Wait for every score of a request; leaves nothing of it in the queue, whatever happens."""
        while pending.own or pending.borrowed:
            own, borrowed = pending.own, pending.borrowed
            try:
                in_time = all(
                    flight.waiter.wait(max(0.0, deadline - self._clock()))
                    for flight in ([own] if own else []) + borrowed
                )
            finally:
                if own:
                    self._land(own)
            for flight in ([own] if own else []) + borrowed:
                if flight.ticket.succeeded:
                    pending.found |= flight.scores()
            if own and not own.ticket.succeeded and in_time:
                return own.ticket.error or UnavailableError("the request was given up")
            if not in_time:
                scored = sum(key in pending.found for key in pending.keys) + (own.ticket.scored if own else 0)
                return DeadlineExceededError(
                    f"{min(scored, len(pending.keys))} of {len(pending.keys)} documents were scored in time"
                )
            self._launch(pending)  # what a borrowed flight failed to bring
        scores = [pending.found[key] for key in pending.keys]
        return Scored(
            logits=np.array([score.logit for score in scores], np.float32),
            truncated=np.array([score.truncated for score in scores], np.bool_),
            tokens=sum(score.tokens for score in scores),
            cached=pending.cached,
        )

    def _launch(self, pending: Pending) -> None:
        """Submit the missing pairs that nobody is scoring, note the flights that carry the others."""
        missing = {
            key: document
            for key, document in zip(pending.keys, pending.request.documents, strict=True)
            if key not in pending.found
        }
        pending.borrowed = list({id(flight): flight for key in missing if (flight := self._flights.get(key))}.values())
        alone = [key for key in missing if key not in self._flights]
        pending.own = None
        if alone:
            waiter = self._make_waiter()
            ticket = self._scheduler.submit(
                pending.request.query, [missing[key] for key in alone], waiter.wake, priority=pending.request.priority
            )
            pending.own = _Flight(ticket, waiter, {key: place for place, key in enumerate(alone)})
            self._flights |= dict.fromkeys(alone, pending.own)

    def _land(self, flight: _Flight) -> None:
        """The end of a flight: its scores are kept, or its pairs leave the queue."""
        self._scheduler.cancel(flight.ticket, UnavailableError("the request was given up"))  # no effect when done
        for key in flight.places:
            del self._flights[key]
        if self.cache is not None and flight.ticket.succeeded:
            self.cache.put_many(flight.scores())
