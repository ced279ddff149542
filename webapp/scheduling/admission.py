"""Who may come in. Decided before any work is done, for a request as a whole.

Laws:
1. One step: what is asked for is checked and reserved together, so that no two requests take the same place.
2. A request comes in whole or not at all; what is larger than a limit would never come in, and is told so.
3. What of a request waits is counted once: by its reservation until it is in the scheduler's queue, by the queue then.
   The queue knows better: it doesn't hold what the cache had, and counts tokens instead of characters.
4. Who would be late is refused at once: waiting would cost both sides, and help neither.
5. A large body is charged for before it is read, with the memory that it takes until the reply is gone. What the
   processes of all workers take together is bounded; one body always fits.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from webapp.domain.errors import OverloadedError, PayloadTooLargeError
from webapp.domain.types import RerankRequest
from webapp.scheduling.shared_sum import OwnSum
from webapp.scheduling.ticket import CHARS_PER_TOKEN, weigh

RETRY_AFTER_S = (1, 30)

BODY_FACTOR = 4
"""Memory that a body takes while it is at work, in bodies of its size: bench/large_bodies.py measures it.

As received and as parsed while it is read; then texts, which take two bytes a character if one of them is a curly
quote, and a reply that repeats them.
"""

PASSED_BY_OLDEST = 4 / 3
"""The oldest request leads every fourth plan, so what goes before a request takes that much longer."""


class Queue(Protocol):
    """What admission must know of the scheduler's queue."""

    longest_chars: int

    @property
    def queued_pairs(self) -> int:
        """Pairs admitted and not yet scored."""

    @property
    def queued_tokens(self) -> int:
        """Padded tokens of those."""

    @property
    def tokens_per_s(self) -> float:
        """How fast they are scored; 0 while nothing is known."""

    def queued_tokens_before(self, tokens: int, priority: int) -> int:
        """Tokens that go before a request of this size."""


class Sum(Protocol):
    """A number of this process, and what it makes with those of the others."""

    own: int

    def add(self, number: int) -> None:
        """Add to this process's number."""

    def total(self) -> int:
        """Return the sum of all processes' numbers."""

    def forget_the_dead(self) -> None:
        """Set the numbers of processes that ended to 0."""


class EmptyQueue:
    """Nothing waits, ever."""

    longest_chars = sys.maxsize
    queued_pairs = 0
    queued_tokens = 0
    tokens_per_s = 0.0

    def queued_tokens_before(self, tokens: int, priority: int) -> int:
        """None."""
        del tokens, priority
        return 0


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """What an admitted request has reserved."""

    pairs: int
    tokens: int
    """An estimate."""
    priority: int


class Arrival:
    """A request from its arrival until its reply is gone, and the memory that is charged for its body."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._bytes = 0
        self._reply_bytes = 0

    def needs(self, memory_bytes: int) -> None:
        """Charge so much, whatever was charged before.

        Raises:
            OverloadedError: it is more than before, and there is no room for that. Nothing changed.
        """
        self._admission.charge(self._bytes, memory_bytes)
        self._bytes = memory_bytes

    def replies(self, reply_bytes: int) -> None:
        """The reply is made: its bytes are all that is charged from the end of the request until `gone`."""
        self._reply_bytes = reply_bytes if self._bytes else 0

    def gone(self) -> None:
        """The reply was sent, or nobody reads it. Idempotent."""
        self._reply_bytes = 0
        self.ended()

    def ended(self) -> None:
        """Only the reply is held."""
        self.needs(min(self._reply_bytes, self._bytes))


class Admission:
    """Counts requests at work in this process; called on the hub's thread only.

    `max_ongoing_requests` lies below gunicorn's `worker_connections`: a full connection pool would hang new clients
    silently, health checks among them, where this answers at once.
    """

    def __init__(
        self,
        *,
        max_ongoing_requests: int,
        max_queued_pairs: int = sys.maxsize,
        max_queued_tokens: int = sys.maxsize,
        max_body_memory_bytes: int = sys.maxsize,
        body_memory: Sum | None = None,
        queue: Queue | None = None,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.max_ongoing_requests = max_ongoing_requests
        self.max_queued_pairs = max_queued_pairs
        self.max_queued_tokens = max_queued_tokens
        self.max_body_memory_bytes = max_body_memory_bytes
        self._body_memory: Sum = body_memory or OwnSum()
        self._queue = queue or EmptyQueue()
        self._clock = clock
        self._uniform = uniform
        self._arriving: set[Place] = set()
        """Admitted, and not in the queue yet."""
        self.body_changes = 0
        """Times that the memory charged for large bodies of this process changed."""
        self.ongoing = 0
        """Requests at work."""

    def check(self) -> None:
        """Refuse what can't come in whatever it holds; costs nothing, so it may go before parsing.

        Raises:
            OverloadedError: there is no place for any request.
        """
        self._check_ongoing()
        self._check_queue()

    def _check_ongoing(self) -> None:
        if self.ongoing >= self.max_ongoing_requests:
            raise self._full("requests", "are at work", self.ongoing, self.max_ongoing_requests)

    def _check_queue(self) -> None:
        if (pairs := self._waiting_pairs()) >= self.max_queued_pairs:
            raise self._full("documents", "wait", pairs, self.max_queued_pairs)
        if (tokens := self._waiting_tokens()) >= self.max_queued_tokens:
            raise self._full("tokens", "wait", tokens, self.max_queued_tokens)

    @contextmanager
    def arrive(self, body_bytes: int) -> Iterator[Arrival]:
        """Hold a place, and memory, from before a body is read until the reply is made.

        Args:
            body_bytes: its size, unpacked, as far as is known.

        Raises:
            OverloadedError: there is no place, or no memory.
        """
        self._check_ongoing()
        arrival = Arrival(self)
        arrival.needs(body_bytes * BODY_FACTOR)
        self.ongoing += 1
        try:
            yield arrival
        finally:
            self.ongoing -= 1
            arrival.ended()

    @property
    def body_memory_bytes(self) -> int:
        """Memory that is charged for bodies of this process."""
        return self._body_memory.own

    def charge(self, before: int, after: int) -> None:
        """Charge for a body what it needs beyond what it needed before.

        Raises:
            OverloadedError: there is no room for that; nothing was charged. What is alone always has room.
        """
        self._body_memory.add(after - before)
        self.body_changes += after != before
        if after <= before or not self._is_too_much(after):
            return
        self._body_memory.forget_the_dead()
        if self._is_too_much(after):
            self._body_memory.add(before - after)
            used, limit = self._body_memory.total(), self.max_body_memory_bytes
            message = f"large bodies at work take {used} bytes of memory, the limit is {limit}"
            raise self._refusal(message, "memory", queued=used, limit=limit)

    def _is_too_much(self, charged: int) -> bool:
        """Whether what is charged, of which this much is for one body, is over the limit."""
        total = self._body_memory.total()
        return total > self.max_body_memory_bytes and total > charged

    @contextmanager
    def admit(
        self, requests: Sequence[RerankRequest] = (), deadline: float = math.inf, *, arrived: bool = False
    ) -> Iterator[Place]:
        """Hold a place for the length of what the caller sees as one request.

        Args:
            requests: its parts.
            deadline: monotonic time at which the caller stops waiting.
            arrived: whether it has a place among the requests at work already.

        Raises:
            OverloadedError: there is no room for it now, or it would wait beyond its deadline.
            PayloadTooLargeError: there will never be.
        """
        place = self._weigh(requests)
        self._check_size(place)
        if not arrived:
            self._check_ongoing()
        self._check_queue()
        self._check_room(place)
        self._check_time(place, deadline)
        self.ongoing += not arrived
        self._arriving.add(place)
        try:
            yield place
        finally:
            self.ongoing -= not arrived
            self._arriving.discard(place)

    def queued(self, place: Place) -> None:
        """Its pairs are in the queue, which counts them from now on."""
        self._arriving.discard(place)

    def _weigh(self, requests: Sequence[RerankRequest]) -> Place:
        chars = sum(weigh(request.documents, self._queue.longest_chars) for request in requests)
        return Place(
            pairs=sum(len(request.documents) for request in requests),
            tokens=chars // CHARS_PER_TOKEN,
            priority=max((request.priority for request in requests), default=0),
        )

    def _waiting_pairs(self) -> int:
        return self._queue.queued_pairs + sum(place.pairs for place in self._arriving)

    def _waiting_tokens(self) -> int:
        return self._queue.queued_tokens + sum(place.tokens for place in self._arriving)

    def _check_size(self, place: Place) -> None:
        for what, size, limit in (
            ("documents", place.pairs, self.max_queued_pairs),
            ("tokens", place.tokens, self.max_queued_tokens),
        ):
            if size > limit:
                raise PayloadTooLargeError(
                    f"the request holds {size} {what}, this service takes {limit} at a time; divide it",
                    figures={"limit": limit},
                    reason="too_large",
                )

    def _check_room(self, place: Place) -> None:
        if (pairs := self._waiting_pairs()) + place.pairs > self.max_queued_pairs:
            raise self._full("documents", "wait", pairs, self.max_queued_pairs)
        if (tokens := self._waiting_tokens()) + place.tokens > self.max_queued_tokens:
            raise self._full("tokens", "wait", tokens, self.max_queued_tokens)

    def _check_time(self, place: Place, deadline: float) -> None:
        """Whether the queue can meet the deadline: what it has before this request counts, not what it has behind it.

        Who finds nothing before itself is let in: whether it makes it is its own affair, and the rate may be old.
        """
        rate = self._queue.tokens_per_s
        left_s = deadline - self._clock()
        if not rate or (self._waiting_tokens() * PASSED_BY_OLDEST + place.tokens) / rate <= left_s:
            return
        before = self._queue.queued_tokens_before(place.tokens, place.priority) * PASSED_BY_OLDEST
        takes_s = (before + place.tokens) / rate
        if before and takes_s > left_s > 0:  # without time left it gets the answer that says so
            raise self._refusal(
                f"with the queue it takes {takes_s:.1f} s, the request has {left_s:.1f} s left",
                "late",
                queued=self._waiting_pairs(),
                limit=self.max_queued_pairs,
            )

    def _full(self, what: str, where: str, queued: int, limit: int) -> OverloadedError:
        return self._refusal(f"{queued} {what} {where}, the limit is {limit}", what, queued=queued, limit=limit)

    def _refusal(self, message: str, reason: str, *, queued: int, limit: int) -> OverloadedError:
        rate = self._queue.tokens_per_s
        eta_s = self._waiting_tokens() / rate if rate else 1.0
        least, most = RETRY_AFTER_S
        # Jitter: who was refused together must not come back together.
        wanted = math.ceil(eta_s * self._uniform(0.8, 1.2) + self._uniform(0, 1))
        return OverloadedError(
            message,
            retry_after_s=min(max(wanted, least), most),
            figures={"queued": queued, "limit": min(limit, 2**53), "eta_s": round(eta_s, 3)},
            reason=reason,
        )
