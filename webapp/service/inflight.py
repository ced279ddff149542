"""Scores for one request's pairs: from the cache, from another request that is scoring them now, or from the engine.

Laws: a pair is scored once, however often it is asked for; a request waits for pairs of another one but does not depend
on it: pairs stay in the queue as long as one request wants them, and if they fail for one they are submitted anew for
the others. Runs on the hub's thread only, so it needs no lock.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np

from webapp.domain.concurrency import MANY_CHARS, Offload, Waiter, run_inline
from webapp.domain.errors import CancelledError, DeadlineExceededError, RerankError, UnavailableError
from webapp.domain.types import RerankRequest, Scored, Spent
from webapp.scheduling.scheduler import Scheduler
from webapp.scheduling.ticket import Phases, Ticket
from webapp.service.cache.keys import pair_keys
from webapp.service.cache.memory import MemoryCache, PairScore
from webapp.service.cache.shared import Patience, SharedCache

SOON_S = 0.05
"""Most requests are done by then; to watch over their callers too would be wasted."""

Watch = Callable[[], AbstractContextManager[object]]
"""Watches over the caller: what is entered raises CancelledError, in whoever waits in it, when the caller hangs up."""


@dataclass(slots=True, eq=False)
class _Flight:
    """Pairs on their way through the scheduler; whoever wants one of them waits here."""

    ticket: Ticket
    waiter: Waiter
    places: dict[Hashable, int]
    """Key -> index in the ticket."""
    wanted_by: int = 1
    """Requests that wait for it."""
    landed: bool = False

    @property
    def ended(self) -> bool:
        return self.ticket.error is not None or self.ticket.succeeded

    def scores(self) -> dict[Hashable, PairScore]:
        ticket = self.ticket
        columns = zip(ticket.logits.tolist(), ticket.truncated.tolist(), ticket.lengths.tolist(), strict=True)
        return dict(zip(self.places, itertools.starmap(PairScore, columns), strict=True))


@dataclass(slots=True)
class ScoringTerms:
    """What a caller grants its requests."""

    deadline: float = math.inf
    """Monotonic time after which nothing of them is scored."""
    client: str = ""
    """Who asks."""
    patience: Patience = field(default_factory=Patience)
    """How long all of them together wait for what other workers know."""


@dataclass(slots=True)
class Pending:
    """A request whose scores are under way."""

    request: RerankRequest
    keys: list[Hashable]
    """One a document; equal documents have equal keys."""
    found: dict[Hashable, PairScore]
    cached: int
    deadline: float = math.inf
    client: str = ""
    own: _Flight | None = None
    borrowed: list[_Flight] = field(default_factory=list)
    waits: bool = False
    """Its flights count it among those who want them."""
    spent: Spent = field(default_factory=Spent)

    @property
    def flights(self) -> list[_Flight]:
        """All that carry a pair of it."""
        return [self.own, *self.borrowed] if self.own else self.borrowed

    @property
    def scored(self) -> int:
        """Documents whose scores are known by now; an estimate where flights carry more than this request asked for."""
        tickets = [flight.ticket for flight in self.flights]
        carried = sum(len(ticket.documents) for ticket in tickets)
        if not carried:
            return len(self.keys)
        done = sum(ticket.scored for ticket in tickets)
        return self.cached + (len(self.keys) - self.cached) * done // carried


class InflightScores:
    """Begin any number of requests, then finish each."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        cache: MemoryCache | None,
        shared: SharedCache | None = None,
        artifact: str,
        make_waiter: Callable[[], Waiter],
        elsewhere: Offload = run_inline,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self.cache = cache
        self.shared = shared
        self._artifact = artifact
        self.make_waiter = make_waiter
        self._elsewhere = elsewhere
        self._clock = clock
        self._flights: dict[Hashable, _Flight] = {}
        self._unique = itertools.count()

    def begin(self, request: RerankRequest, terms: ScoringTerms | None = None) -> Pending:
        """Submit what neither the cache nor another request has.

        Args:
            request: what to score.
            terms: shared by all requests of one call.

        Raises:
            UnavailableError: the scheduler was closed.
        """
        terms = terms or ScoringTerms()
        if self.cache is None:
            keys: list[Hashable] = list(itertools.islice(self._unique, len(request.documents)))
            pending = Pending(request, keys, {}, 0, terms.deadline, terms.client)
        else:
            digests = self._digests(request)
            found = self.cache.get_many(digests)
            if self.shared is not None:
                found |= self._from_others(digests, found, terms.patience)
            cached = sum(digest in found for digest in digests)
            pending = Pending(request, list(digests), found, cached, terms.deadline, terms.client)
        self._launch(pending)
        return pending

    def knows(self, request: RerankRequest) -> bool:
        """Whether every score of it is in the cache."""
        return self.cache is not None and self.cache.holds(self._digests(request))

    def _digests(self, request: RerankRequest) -> list[bytes]:
        """The keys of a request's pairs; the hub runs others while those of long texts are made."""
        chars = len(request.query) + sum(map(len, request.documents))
        run = run_inline if chars <= MANY_CHARS else self._elsewhere
        keys: list[bytes] = run(lambda: pair_keys(self._artifact, request.query, request.documents))
        return keys

    def _from_others(
        self, keys: Iterable[bytes], found: Mapping[Hashable, PairScore], patience: Patience
    ) -> dict[Hashable, PairScore]:
        """What other workers have scored. The hub runs others meanwhile, so memory is asked once more after it.

        What those others began meanwhile is in flight, and `_launch` finds it there: still nothing is scored twice.
        """
        if self.shared is None or self.cache is None:
            return {}
        unknown = [key for key in dict.fromkeys(keys) if key not in found and key not in self._flights]
        if not unknown:
            return {}
        brought: dict[Hashable, PairScore] = dict(self.shared.get_many(unknown, patience).items())
        self.cache.put_many(brought)
        return self.cache.known(unknown) | brought

    def finish(self, pending: Pending, deadline: float, watch: Watch = nullcontext) -> Scored | RerankError:
        """Wait for every score of a request; leaves nothing of it in the queue, whatever happens.

        Args:
            pending: from `begin`.
            deadline: monotonic time at which the caller stops waiting.
            watch: over the caller, while it waits.
        """
        while pending.flights:
            own = pending.own
            try:
                stopped = self._wait(pending, deadline, watch)
            finally:
                self.leave(pending)
            if own:
                pending.spent = _with(pending.spent, own.ticket.phases)
            if own and own.ticket.succeeded and len(own.places) == len(pending.keys):  # it carried all, in their order
                ticket = own.ticket
                tokens = int(ticket.lengths.sum())
                return Scored(ticket.logits, ticket.truncated, tokens, cached=0, spent=pending.spent)
            for flight in pending.flights:
                if flight.ticket.succeeded:
                    pending.found |= flight.scores()
            if own and not stopped and not own.ticket.succeeded:
                stopped = own.ticket.error or UnavailableError("the request was given up")
            if isinstance(stopped, DeadlineExceededError):
                return _too_late(pending)
            if stopped:
                return stopped
            self._launch(pending)  # what a borrowed flight failed to bring
        scores = [pending.found[key] for key in pending.keys]
        return Scored(
            logits=np.array([score.logit for score in scores], np.float32),
            truncated=np.array([score.truncated for score in scores], np.bool_),
            tokens=sum(score.tokens for score in scores),
            cached=pending.cached,
            spent=pending.spent,
        )

    def leave(self, pending: Pending) -> None:
        """A request waits no longer; its pairs leave the queue unless another one wants them. Once or more."""
        if not pending.waits:
            return
        pending.waits = False
        for flight in pending.flights:
            flight.wanted_by -= 1
            if flight.ended or not flight.wanted_by:
                self._land(flight)

    def _wait(self, pending: Pending, deadline: float, watch: Watch) -> RerankError | None:
        """Until all flights ended; else why not."""
        try:
            for flight in pending.flights:
                if flight.waiter.wait(max(0.0, min(deadline - self._clock(), SOON_S))):
                    continue
                with watch():
                    if not flight.waiter.wait(max(0.0, deadline - self._clock())):
                        return DeadlineExceededError("the time was over")
        except CancelledError as hung_up:
            return hung_up
        return None

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
            waiter = self.make_waiter()
            ticket = self._scheduler.submit(
                pending.request.query,
                [missing[key] for key in alone],
                waiter.wake,
                priority=pending.request.priority,
                deadline=pending.deadline,
                client=pending.client,
            )
            pending.own = _Flight(ticket, waiter, {key: place for place, key in enumerate(alone)})
            self._flights |= dict.fromkeys(alone, pending.own)
        for flight in pending.borrowed:
            flight.wanted_by += 1
            self._scheduler.extend_deadline(flight.ticket, pending.deadline)
        pending.waits = True

    def _land(self, flight: _Flight) -> None:
        """The end of a flight: its scores are kept, or its pairs leave the queue. Once or more."""
        if flight.landed:
            return
        flight.landed = True
        if not flight.ended:
            self._scheduler.cancel(flight.ticket, UnavailableError("the request was given up"))
        for key in flight.places:
            del self._flights[key]
        if self.cache is not None and flight.ticket.succeeded:
            scores = flight.scores()
            self.cache.put_many(scores)
            if self.shared is not None:
                self.shared.put_many({key: score for key, score in scores.items() if isinstance(key, bytes)})


def _with(spent: Spent, phases: Phases) -> Spent:
    """A second ticket is rare: only of pairs that another request failed to bring."""
    return Spent(
        spent.queue_ms + phases.waited_s * 1000,
        spent.tokenise_ms + phases.tokenise_s * 1000,
        spent.score_ms + phases.score_s * 1000,
    )


def _too_late(pending: Pending) -> DeadlineExceededError:
    """With what was done of the request."""
    total = len(pending.keys)
    scored = sum(key in pending.found for key in pending.keys)
    if pending.own and not pending.own.ticket.succeeded:
        scored += pending.own.ticket.scored
    scored = min(scored, total)
    return DeadlineExceededError(
        f"{scored} of {total} documents were scored in time", figures={"scored": scored, "total": total}
    )
