"""Scores of a request's pairs: from the cache, from another request that is scoring them now, or from the engine.

Laws: a pair is scored once, however many requests hold it; a request waits for pairs of another one but does not depend
on it: pairs stay in the queue as long as one request wants them, and if they fail for one they are submitted anew for
the others. Runs on the hub's thread only, so it needs no lock.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from webapp.domain.concurrency import MANY_CHARS, Offload, Waiter, run_inline
from webapp.domain.errors import DeadlineExceededError, RerankError, UnavailableError
from webapp.domain.types import RerankRequest, Scored, Spent
from webapp.scheduling.scheduler import Scheduler
from webapp.scheduling.ticket import Phases, Ticket
from webapp.service.cache.keys import pair_keys
from webapp.service.cache.memory import LookupBudget, MemoryCache, PairScore
from webapp.telemetry.observer import Caller

if TYPE_CHECKING:  # it needs a client of Redis
    from webapp.service.cache.redis import SharedCache

SOON_S = 0.05
"""Most requests are done by then; to watch their callers' connections too would be wasted."""

NOBODY = Caller(request_id="", dialect="")

Watch = Callable[[], AbstractContextManager[object]]
"""Returns a context that raises CancelledError in its waiting caller when the client hangs up."""


@dataclass(slots=True, eq=False)
class _Inflight:
    """A ticket on its way through the scheduler; requests that want one of its pairs wait for it."""

    ticket: Ticket
    waiter: Waiter
    places: dict[Hashable, int]
    """Key -> index in the ticket."""
    wanted_by: int = 1
    """Requests that wait for it."""
    completed: bool = False

    @property
    def ended(self) -> bool:
        return self.ticket.error is not None or self.ticket.succeeded

    def scores(self) -> dict[Hashable, PairScore]:
        ticket = self.ticket
        columns = zip(ticket.logits.tolist(), ticket.truncated.tolist(), ticket.lengths.tolist(), strict=True)
        return dict(zip(self.places, itertools.starmap(PairScore, columns), strict=True))


@dataclass(slots=True)
class CallOptions:
    """What all requests of one call share."""

    deadline: float = math.inf
    """Monotonic time at which the caller stops waiting; none of their pairs is scored after it."""
    caller: Caller = NOBODY
    """The caller of the API. Observers get it, and clients share the engine by it."""
    watch: Watch = nullcontext
    """Watches the caller's connection while it waits."""
    arrived: bool = False
    """Whether the call holds a place from `Admission.arrive`."""
    lookups: LookupBudget = field(default_factory=LookupBudget)
    """How long all of them together wait for scores that other workers share."""


@dataclass(slots=True)
class Pending:
    """A request whose scores are under way."""

    request: RerankRequest
    keys: list[Hashable]
    """One a document; equal documents have equal keys."""
    found: dict[Hashable, PairScore]
    cached: int
    options: CallOptions = field(default_factory=CallOptions)
    own: _Inflight | None = None
    borrowed: list[_Inflight] = field(default_factory=list)
    waits: bool = False
    """Whether its tickets count it in `wanted_by`."""
    spent: Spent = field(default_factory=Spent)

    @property
    def inflight(self) -> list[_Inflight]:
        """All tickets that carry a pair of it."""
        return [self.own, *self.borrowed] if self.own else self.borrowed

    @property
    def scored(self) -> int:
        """Documents whose scores are known by now; an estimate where its tickets carry pairs of other requests."""
        tickets = [flight.ticket for flight in self.inflight]
        carried = sum(len(ticket.documents) for ticket in tickets)
        if not carried:
            return len(self.keys)
        done = sum(ticket.scored for ticket in tickets)
        return self.cached + (len(self.keys) - self.cached) * done // carried


class InflightScores:
    """Scores for requests: begin any number of them, then finish each."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        cache: MemoryCache | None,
        shared: SharedCache | None = None,
        artifact: str,
        make_waiter: Callable[[], Waiter],
        offload: Offload = run_inline,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self.cache = cache
        self.shared = shared
        self._artifact = artifact
        self.make_waiter = make_waiter
        self._offload = offload
        self._clock = clock
        self._inflight: dict[Hashable, _Inflight] = {}
        self._unique = itertools.count()

    def begin(self, request: RerankRequest, options: CallOptions | None = None) -> Pending:
        """Submit what neither the cache nor another request has.

        Args:
            request: what to score.
            options: None: no deadline, and nobody's.

        Raises:
            UnavailableError: the scheduler was closed.
        """
        options = options or CallOptions()
        found: dict[Hashable, PairScore] = {}
        if self.cache is None:
            keys: list[Hashable] = list(itertools.islice(self._unique, len(request.documents)))
        else:
            digests = self._digests(request)
            found = self._known(self.cache, digests, options.lookups)
            keys = list(digests)
        pending = Pending(request, keys, found, sum(key in found for key in keys), options)
        self._submit(pending)
        return pending

    def knows(self, request: RerankRequest) -> bool:
        """Return whether every score of a request is in the cache."""
        return self.cache is not None and self.cache.holds(self._digests(request))

    def _digests(self, request: RerankRequest) -> list[bytes]:
        """Return the keys of a request's pairs; those of long texts are offloaded."""
        instruction = request.instruction or ""
        chars = len(instruction) + len(request.query) + sum(map(len, request.documents))
        run = run_inline if chars <= MANY_CHARS else self._offload
        return run(lambda: pair_keys(self._artifact, request.query, request.documents, instruction))

    def _known(self, cache: MemoryCache, keys: Sequence[bytes], lookups: LookupBudget) -> dict[Hashable, PairScore]:
        """Return scores from memory, and those that other workers share.

        The hub runs others during a lookup, so look into memory once more after it. Pairs that those began to score
        meanwhile are in flight, and `_submit` finds them: none is scored twice.
        """
        found = cache.get_many(keys)
        if self.shared is None:
            return found
        unknown = [key for key in dict.fromkeys(keys) if key not in found and key not in self._inflight]
        if not unknown:
            return found
        brought: dict[Hashable, PairScore] = dict(self.shared.get_many(unknown, lookups).items())
        cache.put_many(brought)
        return found | cache.known(unknown) | brought

    def finish(self, pending: Pending) -> Scored | RerankError:
        """Wait for every score of a request; leave nothing of it in the queue, whatever happens."""
        while pending.inflight:
            own = pending.own
            stopped: RerankError | None = None
            try:
                self._wait(pending)
            except RerankError as error:
                stopped = error
            finally:
                self.give_up(pending)
            if own:
                pending.spent = _add_phases(pending.spent, own.ticket.phases)
            if own and own.ticket.succeeded and len(own.places) == len(pending.keys):  # it carried all, in their order
                ticket = own.ticket
                tokens = int(ticket.lengths.sum())
                return Scored(ticket.logits, ticket.truncated, tokens, cached=0, spent=pending.spent)
            for flight in pending.inflight:
                if flight.ticket.succeeded:
                    pending.found |= flight.scores()
            stopped = stopped or (own.ticket.error if own else None)
            if stopped:
                return _too_late(pending) if isinstance(stopped, DeadlineExceededError) else stopped
            self._submit(pending)  # pairs that another request failed to bring
        scores = [pending.found[key] for key in pending.keys]
        return Scored(
            logits=np.array([score.logit for score in scores], np.float32),
            truncated=np.array([score.truncated for score in scores], np.bool_),
            tokens=sum(score.tokens for score in scores),
            cached=pending.cached,
            spent=pending.spent,
        )

    def give_up(self, pending: Pending) -> None:
        """Stop waiting for a request; its pairs leave the queue unless another one wants them. Idempotent."""
        if not pending.waits:
            return
        pending.waits = False
        for flight in pending.inflight:
            flight.wanted_by -= 1
            if flight.ended or not flight.wanted_by:
                self._complete(flight)

    def _wait(self, pending: Pending) -> None:
        """Wait until all tickets ended.

        Raises:
            CancelledError: the caller hung up.
            DeadlineExceededError: the time was over.
        """
        deadline = pending.options.deadline
        for flight in pending.inflight:
            if flight.waiter.wait(max(0.0, min(deadline - self._clock(), SOON_S))):
                continue
            with pending.options.watch():
                if not flight.waiter.wait(max(0.0, deadline - self._clock())):
                    raise DeadlineExceededError("the time was over")

    def _submit(self, pending: Pending) -> None:
        """Submit the missing pairs that no ticket carries, and note the tickets that carry the others."""
        missing = {
            key: document
            for key, document in zip(pending.keys, pending.request.documents, strict=True)
            if key not in pending.found
        }
        pending.borrowed = list(dict.fromkeys(self._inflight[key] for key in missing if key in self._inflight))
        alone = [key for key in missing if key not in self._inflight]
        pending.own = None
        if alone:
            waiter = self.make_waiter()
            ticket = self._scheduler.submit(
                pending.request.query,
                [missing[key] for key in alone],
                waiter.wake,
                instruction=pending.request.instruction or "",
                priority=pending.request.priority,
                deadline=pending.options.deadline,
                client=pending.options.caller.client,
            )
            pending.own = _Inflight(ticket, waiter, {key: place for place, key in enumerate(alone)})
            self._inflight |= dict.fromkeys(alone, pending.own)
        for flight in pending.borrowed:
            flight.wanted_by += 1
            self._scheduler.extend_deadline(flight.ticket, pending.options.deadline)
        pending.waits = True

    def _complete(self, flight: _Inflight) -> None:
        """Complete an in-flight ticket: cache its scores or cancel it. Idempotent."""
        if flight.completed:
            return
        flight.completed = True
        if not flight.ended:
            self._scheduler.cancel(flight.ticket, UnavailableError("the request was given up"))
        for key in flight.places:
            del self._inflight[key]
        if self.cache is not None and flight.ticket.succeeded:
            scores = flight.scores()
            self.cache.put_many(scores)
            if self.shared is not None:
                self.shared.put_many({key: score for key, score in scores.items() if isinstance(key, bytes)})


def _add_phases(spent: Spent, phases: Phases) -> Spent:
    """Add the phases of a ticket. A second ticket is rare: for pairs that another request failed to bring."""
    return Spent(
        spent.queue_ms + phases.waited_s * 1000,
        spent.tokenise_ms + phases.tokenise_s * 1000,
        spent.score_ms + phases.score_s * 1000,
    )


def _too_late(pending: Pending) -> DeadlineExceededError:
    """Return the error of a late request, with how much of it was scored."""
    total = len(pending.keys)
    scored = sum(key in pending.found for key in pending.keys)
    if pending.own and not pending.own.ticket.succeeded:
        scored += pending.own.ticket.scored
    scored = min(scored, total)
    return DeadlineExceededError(
        f"{scored} of {total} documents were scored in time", figures={"scored": scored, "total": total}
    )
