"""Admission: which requests are accepted. Decided before any work is done, for a request as a whole.

Laws:
1. One step: a request is checked and reserved together, so that no two requests take the same place.
2. A request is admitted whole or not at all; one that is larger than a limit gets an error that says so.
3. The waiting work of a request is counted once: by its reservation until it is in the scheduler's queue, then by the
   queue. The queue knows better: it doesn't hold what the cache had, and counts tokens instead of characters.
4. A request that would be late is refused at once: waiting would cost both sides, and help neither.
5. A large body is charged for before it is read, with the memory that it takes until the reply is gone. What the
   processes of all workers take together is bounded; one body always fits.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from webapp.config.resources import memory_bytes
from webapp.domain.errors import OverloadedError, PayloadTooLargeError
from webapp.domain.types import RerankRequest
from webapp.scheduling.scheduler import Scheduler
from webapp.scheduling.shared_sum import SharedSum
from webapp.scheduling.ticket import CHARS_PER_TOKEN, weigh

RETRY_AFTER_S = (1, 30)

BODY_FACTOR = 4
"""Memory that a request takes while it is at work, in multiples of its body: bench/large_bodies.py measures it.

As received and as parsed while it is read; then texts, which take two bytes a character if one of them is a curly
quote, and a reply that repeats them.
"""

BODY_MEMORY_BYTES = 512 * 1024 * 1024
"""Most memory that large bodies may take by default."""

PASSED_BY_OLDEST = 4 / 3
"""The oldest request leads every fourth plan, so what goes before a request takes that much longer."""


def body_memory_bytes(max_body_bytes: int, limit_mb: int = 0) -> int:
    """Return the memory that large bodies may take in all processes; one of the largest size always fits.

    Args:
        max_body_bytes: size of the largest body.
        limit_mb: what the operator chose; 0: a quarter of the machine, at most `BODY_MEMORY_BYTES`.
    """
    chosen = limit_mb * 1024 * 1024 or min(BODY_MEMORY_BYTES, memory_bytes() // 4)
    return max(chosen, max_body_bytes * BODY_FACTOR)


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """The reservation of an admitted request."""

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

    def needs(self, needed_bytes: int) -> None:
        """Charge this much in place of what was charged before.

        Raises:
            OverloadedError: it is more than before, and there is no room for that. Nothing changed.
        """
        self._admission.charge(self._bytes, needed_bytes)
        self._bytes = needed_bytes

    def replies(self, reply_bytes: int) -> None:
        """Record that the reply is made: only its bytes are charged from the end of the request until `gone`."""
        self._reply_bytes = reply_bytes if self._bytes else 0

    def gone(self) -> None:
        """Record that the reply was sent, or that its reader is gone. Idempotent."""
        self._reply_bytes = 0
        self.ended()

    def ended(self) -> None:
        """Record that only the reply is held."""
        self.needs(min(self._reply_bytes, self._bytes))


class Admission:
    """Limits the requests at work in this process; called on the hub's thread only.

    `max_ongoing_requests` is below gunicorn's `worker_connections`: a full connection pool would let new clients hang
    without an answer, health checks among them, where this answers at once.
    """

    def __init__(
        self,
        *,
        max_ongoing_requests: int,
        max_queued_pairs: int = sys.maxsize,
        max_queued_tokens: int = sys.maxsize,
        max_body_memory_bytes: int = sys.maxsize,
        body_memory: SharedSum | None = None,
        queue: Scheduler | None = None,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.max_ongoing_requests = max_ongoing_requests
        self.max_queued_pairs = max_queued_pairs
        self.max_queued_tokens = max_queued_tokens
        self.max_body_memory_bytes = max_body_memory_bytes
        self._body_memory = body_memory or SharedSum()
        self._queue = queue or Scheduler(lock=nullcontext(), budget_tokens=1, threads=1)
        self._clock = clock
        self._uniform = uniform
        self._arriving: set[Place] = set()
        """Admitted, and not in the queue yet."""
        self.body_changes = 0
        """How often the memory charged for large bodies of this process changed."""
        self.ongoing = 0
        """Requests at work."""

    def check(self) -> None:
        """Refuse a request that can't be admitted whatever it holds; costs nothing, so call it before parsing.

        Raises:
            OverloadedError: there is no place for any request.
        """
        self._check_ongoing()
        self._check_room(1, 1)

    def _check_ongoing(self) -> None:
        if self.ongoing >= self.max_ongoing_requests:
            raise self._full("requests", "are at work", self.ongoing, self.max_ongoing_requests)

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
        """Charge for a body the difference between what it needed before and needs now.

        Raises:
            OverloadedError: there is no room for that; nothing was charged. A body that is alone always has room.
        """
        self._body_memory.add(after - before)
        self.body_changes += after != before
        if after <= before or not self._is_too_much(after):
            return
        self._body_memory.reset_dead()
        if self._is_too_much(after):
            self._body_memory.add(before - after)
            used, limit = self._body_memory.total(), self.max_body_memory_bytes
            message = f"large bodies at work take {used} bytes of memory, the limit is {limit}"
            raise self._refusal(message, "memory", queued=used, limit=limit)

    def _is_too_much(self, charged: int) -> bool:
        """Return whether the sum of all charges, of which this much is for one body, is over the limit."""
        total = self._body_memory.total()
        return total > self.max_body_memory_bytes and total > charged

    @contextmanager
    def admit(self, requests: Sequence[RerankRequest], deadline: float = math.inf) -> Iterator[Place]:
        """Hold places in the queue for a request, as the caller sees it.

        Args:
            requests: its parts.
            deadline: monotonic time at which the caller stops waiting.

        Raises:
            OverloadedError: there is no room for it now, or it would wait beyond its deadline.
            PayloadTooLargeError: there will never be.
        """
        place = self._weigh(requests)
        self._check_size(place)
        self._check_room(place.pairs, place.tokens)
        self._check_time(place, deadline)
        self._arriving.add(place)
        try:
            yield place
        finally:
            self._arriving.discard(place)

    def queued(self, place: Place) -> None:
        """Record that the pairs of a request are in the queue, which counts them from now on."""
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
        sizes = (("documents", place.pairs, self.max_queued_pairs), ("tokens", place.tokens, self.max_queued_tokens))
        for what, size, limit in sizes:
            if size > limit:
                raise PayloadTooLargeError(
                    f"the request holds {size} {what}, this service takes {limit} at a time; divide it",
                    figures={"limit": limit},
                    reason="too_large",
                )

    def _check_room(self, pairs: int, tokens: int) -> None:
        for what, waiting, more, limit in (
            ("documents", self._waiting_pairs(), pairs, self.max_queued_pairs),
            ("tokens", self._waiting_tokens(), tokens, self.max_queued_tokens),
        ):
            if waiting + max(more, 1) > limit:
                raise self._full(what, "wait", waiting, limit)

    def _check_time(self, place: Place, deadline: float) -> None:
        """Refuse a request that the queue can't score by its deadline; only work that goes before it counts.

        A request with nothing before it is admitted, though it may be late: the rate may be old.
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
        # Jitter: callers that were refused together must not come back together.
        wanted = math.ceil(eta_s * self._uniform(0.8, 1.2) + self._uniform(0, 1))
        return OverloadedError(
            message,
            retry_after_s=min(max(wanted, least), most),
            figures={"queued": queued, "limit": min(limit, 2**53), "eta_s": round(eta_s, 3)},
            reason=reason,
        )
