"""Rate limits: the requests and documents that one account may send in a minute.

An account is a key's name, or an address. Counted before any work, in a sliding window: the previous minute counts by
how much of it is less than a minute ago. Counts are in this worker's memory, or in Redis, where workers and machines
share them. Redis costs a request at most `REDIS_WAIT_S`; when it fails or is late, this worker's memory counts for the
next `REDIS_REST_S`.
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

from webapp.domain.errors import PayloadTooLargeError, RateLimitedError, SetupError

log = logging.getLogger(__name__)

Unit = Literal["requests", "documents"]

WindowCounts = tuple[int, float, int, float]
"""The previous window's count and the seconds until it no longer counts, then the same for this window."""

WINDOW_S = 60.0

REDIS_WAIT_S = 0.01
"""A rerank is counted twice, by requests and by documents: at most 20 ms together."""

REDIS_REST_S = 5.0
"""How long Redis is left alone after it failed."""

IPV6_NETWORK_BITS = 64
"""The network of one subscriber, who could use another address of it for every request."""


MOST_MS = 2 * 60 * 1000
"""Longest time that `limits` lets Redis keep a minute's count."""

MOST_DIGITS = 19
"""Digits of Redis' largest number."""


class CountsInMemory:
    """Counts of this worker. Those of `limits` go by the time of day: set back, they would refuse for as long."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin empty; `clock` returns monotonic seconds."""
        self._clock = clock
        self._window = 0
        self._counts: Counter[tuple[str, str]] = Counter()
        """Account -> count of the current window."""
        self._previous: Counter[tuple[str, str]] = Counter()

    def hit(self, limit: int, account: tuple[str, str], cost: int) -> WindowCounts | None:
        """Count, unless it is more than the limit a minute; then return the counts that are in the way."""
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


class CountsInRedis:
    """Counts in Redis, two numbers an account, kept by `limits`; an answer is believed only where it can be true.

    An answer that came to another question is found out when it refuses: then the counters themselves are read.
    """

    def __init__(self, url: str, *, wait_s: float = REDIS_WAIT_S) -> None:
        """Prepare; connects at the first use. `limits` keeps a minute's counts for two.

        Raises:
            SetupError: the client of Redis is not installed.
        """
        # `limits` brings sixty other modules, and most services have no Redis.
        try:
            from webapp.service.cache.redis import pool_of  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise SetupError("RERANK_REDIS_URL: redis is not installed; pip install 'reranking[redis]'") from error
        from limits import RateLimitItemPerMinute  # noqa: PLC0415
        from limits.storage import RedisStorage  # noqa: PLC0415
        from limits.strategies import SlidingWindowCounterRateLimiter  # noqa: PLC0415

        self._pool = pool_of(url, wait_s=wait_s)
        storage: Any = RedisStorage("redis://", connection_pool=self._pool)
        # `limits` takes any answer that is not nothing for a yes. Not needed once it checks them.
        storage.lua_acquire_sliding_window = _checked(storage.lua_acquire_sliding_window, _is_decision)
        storage.lua_sliding_window = _checked(storage.lua_sliding_window, _is_window)
        self._storage = storage
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._per_minute = functools.partial(RateLimitItemPerMinute, namespace="rerank")

    def hit(self, limit: int, account: tuple[str, str], cost: int) -> WindowCounts | None:
        """Count as `CountsInMemory.hit` does.

        Raises:
            Exception: whatever the client library raises; ValueError: Redis answered nonsense.
        """
        item = self._per_minute(limit)
        try:
            if self._limiter.hit(item, *account, cost=cost):
                return None
            counts: WindowCounts = self._storage.get_sliding_window(item.key_for(*account), item.get_expiry())
        except BaseException:
            # The next answer on the same connection may belong to another question.
            self._pool.disconnect(inuse_connections=False)
            raise
        return counts


def _checked(script: Callable[..., Any], is_sound: Callable[[Any], bool]) -> Callable[..., Any]:
    def run(keys: Sequence[str], args: Sequence[int]) -> Any:
        answer = script(keys, args)
        if not is_sound(answer):
            raise ValueError("Redis answered something else")
        return answer

    return run


def _is_decision(answer: object) -> bool:
    """Return whether this is a boolean of Lua: true is 1, false is nothing."""
    return answer is None or (type(answer) is int and answer == 1)


def _is_window(answer: object) -> bool:
    """Return whether these are counts and milliseconds of two windows, with something in the way."""
    if type(answer) is not list or len(answer) != 4:  # noqa: PLR2004 - these four
        return False
    previous, previous_ms, current, current_ms = answer
    counts = [0 if count is None else _number(count) for count in (previous, current)]
    times = [type(left_ms) is int and left_ms <= MOST_MS for left_ms in (previous_ms, current_ms)]
    return min(counts) >= 0 and any(counts) and all(times)


def _number(count: object) -> int:
    """Return a count; -1 when it is none."""
    return int(count) if type(count) is bytes and count.isdigit() and len(count) <= MOST_DIGITS else -1


class Quota:
    """The limits and counts of one worker.

    Args:
        requests_per_minute: limit of each account; 0: any number.
        documents_per_minute: limit of each account; 0: any number.
        shared: the counts that workers share.
        within: runs a question to those, at most so many seconds; see `Bridge.within`.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        requests_per_minute: int = 0,
        documents_per_minute: int = 0,
        shared: CountsInRedis | None = None,
        within: Callable[[float, Callable[[], Any]], Any] = lambda _seconds, run: run(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most: dict[Unit, int] = {"requests": requests_per_minute, "documents": documents_per_minute}
        self._shared = shared
        self._within = within
        self._clock = clock
        self._own = CountsInMemory(clock)
        self._rest_until = -math.inf

    def take(self, unit: Unit, account: str, cost: int = 1, most: int | None = None) -> None:
        """Count what an account sends.

        Args:
            unit: what is counted.
            account: the sender.
            cost: how many.
            most: this account's own limit; None: the common limit; 0: any number.

        Raises:
            RateLimitedError: it is too much for now; nothing is counted.
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
        counts = self._hit(limit, (unit, account), cost)
        if counts:
            wait_s = wait_for_room(counts, cost=cost, limit=limit)
            raise RateLimitedError(
                f"this caller may send {limit} {unit} a minute; come again in {math.ceil(wait_s)} s",
                retry_after_s=max(1, math.ceil(wait_s)),
                figures={"limit": limit, "eta_s": round(wait_s, 3)},
            )

    def _hit(self, limit: int, account: tuple[str, str], cost: int) -> WindowCounts | None:
        shared = self._shared
        if shared is not None and self._clock() >= self._rest_until:
            try:
                answer: WindowCounts | None = self._within(REDIS_WAIT_S, lambda: shared.hit(limit, account, cost))
            except Exception as error:  # noqa: BLE001 - whatever a client library raises ends here
                self._rest_until = self._clock() + REDIS_REST_S
                log.warning(
                    "Redis does not count: each worker counts for itself for %g s (%s)",
                    REDIS_REST_S,
                    type(error).__name__,  # its message may hold the address, and that a password
                )
            else:
                return answer
        return self._own.hit(limit, account, cost)


def account_of(address: str) -> str:
    """Return the account of an address: the address itself, or its IPv6 network."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(ipaddress.ip_network((parsed.packed, IPV6_NETWORK_BITS), strict=False))


def wait_for_room(window: WindowCounts, *, cost: int, limit: int) -> float:
    """Return the seconds until `cost` more fit, if the account sends nothing meanwhile."""
    previous, previous_s, current, current_s = window
    room = limit - cost
    if previous and current <= room:  # enough of the previous window has to fade
        return max(0.0, previous_s - (room - current) * WINDOW_S / previous)
    # This window has to become the previous one, and then to fade; its counter lives until it has faded whole.
    return max(0.0, current_s - WINDOW_S * min(1.0, room / max(current, 1)))
