"""Counts of what accounts asked for, in a window that slides, in Redis, kept by `limits`.

A module of its own, because `limits` brings sixty others, and most services have no Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from limits import RateLimitItemPerMinute
from limits.strategies import SlidingWindowCounterRateLimiter

from webapp.domain.errors import SetupError

Seen = tuple[int, float, int, float]
"""As `webapp.service.rate_limit` has it."""

MOST_MS = 2 * 60 * 1000
"""Longest time that `limits` lets Redis keep a minute's count."""

MOST_DIGITS = 19
"""Of Redis' numbers."""


class CountsInRedis:
    """`rate_limit.Counts` in Redis, two an account, whose answers are believed only where they can be true.

    An answer that came to another question is found out when one is no: then the counters themselves are asked for.
    """

    def __init__(self, pool: Any, storage: Any) -> None:
        """Have the answers checked: `limits` takes whatever is not nothing for a yes."""
        storage.lua_acquire_sliding_window = _checked(storage.lua_acquire_sliding_window, _is_decision)
        storage.lua_sliding_window = _checked(storage.lua_sliding_window, _is_window)
        self._storage = storage
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._pool = pool

    def hit(self, limit: int, account: tuple[str, str], cost: int) -> Seen | None:
        """Count, unless it is more than the limit; then return what is in the way.

        Raises:
            Exception: whatever the client library raises; ValueError: Redis answered nonsense.
        """
        item = RateLimitItemPerMinute(limit, namespace="rerank")
        try:
            if self._limiter.hit(item, *account, cost=cost):
                return None
            seen: Seen = self._storage.get_sliding_window(item.key_for(*account), item.get_expiry())
        except BaseException:
            self._pool.disconnect(inuse_connections=False)  # the next answer on the same connection may be anyone's
            raise
        return seen


def _checked(script: Callable[..., Any], is_sound: Callable[[Any], bool]) -> Callable[..., Any]:
    def run(keys: Sequence[str], args: Sequence[int]) -> Any:
        answer = script(keys, args)
        if not is_sound(answer):
            raise ValueError("Redis answered something else")
        return answer

    return run


def _is_decision(answer: object) -> bool:
    """Lua's true is 1, its false is nothing."""
    return answer is None or (type(answer) is int and answer == 1)


def _is_window(answer: object) -> bool:
    """Previous count, its milliseconds, this window's count, its milliseconds; something must be in the way."""
    if type(answer) is not list or len(answer) != 4:  # noqa: PLR2004 - these four
        return False
    previous, previous_ms, current, current_ms = answer
    counts = [0 if count is None else _number(count) for count in (previous, current)]
    times = [type(left_ms) is int and left_ms <= MOST_MS for left_ms in (previous_ms, current_ms)]
    return min(counts) >= 0 and any(counts) and all(times)


def _number(count: object) -> int:
    """Return a count; -1 when it is none."""
    return int(count) if type(count) is bytes and count.isdigit() and len(count) <= MOST_DIGITS else -1


def in_redis(url: str, *, wait_s: float) -> CountsInRedis:
    """Counts in the Redis at this address; connects at the first use. `limits` keeps a minute's counts for two.

    Raises:
        SetupError: its client is not installed.
    """
    try:
        from webapp.service.redis_pool import pool_of  # noqa: PLC0415 - needs an optional part
    except ModuleNotFoundError as error:
        raise SetupError("RERANK_REDIS_URL: redis is not installed; pip install 'reranking[redis]'") from error
    from limits.storage import RedisStorage  # noqa: PLC0415

    pool = pool_of(url, wait_s=wait_s)
    return CountsInRedis(pool, RedisStorage("redis://", connection_pool=pool))
