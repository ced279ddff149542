"""How much one account may ask for in a minute: requests, and documents. An account is a key's name, or an address.

Counted before any work, in a window that slides: the previous minute counts by how much of it is less than a minute
ago. Counts are in this worker's memory, or in Redis, where workers and machines share them. Redis costs a request at
most `REDIS_WAIT_S`; when it fails or is late, this worker's memory counts for the next `REDIS_REST_S`.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal, Protocol

from webapp.domain.errors import PayloadTooLargeError, RateLimitedError

log = logging.getLogger(__name__)

Unit = Literal["requests", "documents"]

Seen = tuple[int, float, int, float]
"""The previous window's count and the seconds until it no longer counts, then the same of this window."""

WINDOW_S = 60.0

REDIS_WAIT_S = 0.01
"""A rerank is counted twice, by requests and by documents: 20 ms together."""

REDIS_REST_S = 5.0
"""How long Redis is left alone after it failed."""

IPV6_NETWORK_BITS = 64
"""What one subscriber has; single addresses of it could be changed with every request."""


class Counts(Protocol):
    """Counts of accounts; see `webapp.service.redis_rate_limit`."""

    def hit(self, limit: int, account: tuple[str, str], cost: int) -> Seen | None:
        """Count, unless it is more than the limit a minute; then return what is counted so far."""


class Within(Protocol):
    """Runs something that may take too long."""

    def __call__(self, seconds: float, run: Callable[[], Any]) -> Any:
        """Its result; raises TimeoutError when the time is over."""


class CountsInMemory:
    """`Counts` of this worker. That of `limits` goes by the time of day: set back, it would refuse for as long."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin empty; `clock` has monotonic seconds."""
        self._clock = clock
        self._window = 0
        self._counts: Counter[tuple[str, str]] = Counter()
        """(name, what is counted) -> count of the current window."""
        self._previous: Counter[tuple[str, str]] = Counter()

    def hit(self, limit: int, account: tuple[str, str], cost: int) -> Seen | None:
        """Count, unless it is more than the limit; then return what is in the way."""
        window, into_s = divmod(self._clock(), WINDOW_S)
        if window != self._window:
            self._previous = self._counts if window == self._window + 1 else Counter()
            self._window, self._counts = int(window), Counter()
        left_s = WINDOW_S - into_s
        previous, current = self._previous[account], self._counts[account]
        if int(previous * left_s / WINDOW_S) + current + cost > limit:
            return previous, left_s if previous else 0.0, current, left_s + WINDOW_S
        self._counts[account] += cost
        return None


class Quota:
    """Limits and counts of one worker.

    Args:
        requests_per_minute: of each account; 0: any number.
        documents_per_minute: as above.
        shared: the counter that workers share, in Redis.
        within: bounds what that may take.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        requests_per_minute: int = 0,
        documents_per_minute: int = 0,
        shared: Counts | None = None,
        within: Within = lambda _seconds, run: run(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most: dict[Unit, int] = {"requests": requests_per_minute, "documents": documents_per_minute}
        self._shared = shared
        self._within = within
        self._clock = clock
        self._own = CountsInMemory(clock)
        self._rest_until = -math.inf

    def take(self, unit: Unit, account: str, cost: int = 1, most: int | None = None) -> None:
        """Count what an account asks for.

        Args:
            unit: what is counted.
            account: who asks.
            cost: how many.
            most: this account's own limit; None: as everybody; 0: any number.

        Raises:
            RateLimitedError: it was too much for now; nothing is counted.
            PayloadTooLargeError: it is more than the limit of a whole minute.
        """
        limit = self.most[unit] if most is None else most
        if not limit or not cost:
            return
        if cost > limit:
            raise PayloadTooLargeError(
                f"{cost} {unit} are more than the {limit} a minute that this caller may send",
                figures={"limit": limit},
            )
        in_the_way = self._ask(lambda counter: counter.hit(limit, (unit, account), cost))
        if in_the_way:
            wait_s = wait_for_room(in_the_way, cost=cost, limit=limit)
            raise RateLimitedError(
                f"this caller may send {limit} {unit} a minute; come again in {math.ceil(wait_s)} s",
                retry_after_s=max(1, math.ceil(wait_s)),
                figures={"limit": limit, "eta_s": round(wait_s, 3)},
            )

    def _ask(self, ask: Callable[[Counts], Seen | None]) -> Seen | None:
        shared = self._shared
        if shared is not None and self._clock() >= self._rest_until:
            try:
                answer: Seen | None = self._within(REDIS_WAIT_S, lambda: ask(shared))
            except Exception as error:  # noqa: BLE001 - whatever a client library raises ends here
                self._rest_until = self._clock() + REDIS_REST_S
                log.warning(
                    "Redis does not count: each worker counts for itself for %g s (%s)",
                    REDIS_REST_S,
                    type(error).__name__,  # its message may hold the address, and that a password
                )
            else:
                return answer
        return ask(self._own)


def account_of(address: str) -> str:
    """What counts as one caller by address: an IPv4 address, or an IPv6 network."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(ipaddress.ip_network((parsed.packed, IPV6_NETWORK_BITS), strict=False))


def wait_for_room(window: Seen, *, cost: int, limit: int) -> float:
    """Seconds until `cost` more fit, if nobody asks for anything meanwhile."""
    previous, previous_s, current, current_s = window
    room = limit - cost
    if previous and current <= room:  # enough of the previous window has to fade
        return max(0.0, previous_s - (room - current) * WINDOW_S / previous)
    # This window has to become the previous one, and then to fade; its counter lives until it has faded whole.
    return max(0.0, current_s - WINDOW_S * min(1.0, room / max(current, 1)))
