"""Counts of what accounts asked for, in a window that slides, kept by `limits`: in memory, or in Redis.

A module of its own, because `limits` brings sixty others, and most services set no limit.
"""

from __future__ import annotations

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage, Storage
from limits.strategies import SlidingWindowCounterRateLimiter

from webapp.errors import SetupError

Seen = tuple[int, float, int, float]
"""As `webapp.quota` has it."""


class Window:
    """A `webapp.quota.Counter`; two counters an account, however many documents it sent."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._limiter = SlidingWindowCounterRateLimiter(storage)

    def hit(self, limit: int, account: tuple[str, str], cost: int) -> Seen | None:
        """None when it was counted, else what is in the way."""
        item = RateLimitItemPerMinute(limit, namespace="rerank")
        if self._limiter.hit(item, *account, cost=cost):
            return None
        seen: Seen = self._storage.get_sliding_window(  # type: ignore[attr-defined] # the limiter checked that it has it
            item.key_for(*account), item.get_expiry()
        )
        return seen


def in_memory() -> Window:
    """Counts of this process. It starts a timer, so it is made after the fork."""
    return Window(MemoryStorage())


def in_redis(url: str, *, wait_s: float) -> Window:
    """Counts in the Redis at this address; connects at the first use. `limits` keeps a minute's counts for two.

    Raises:
        SetupError: its client is not installed.
    """
    try:
        import redis  # noqa: PLC0415 - an optional part
    except ModuleNotFoundError as error:
        raise SetupError("RERANK_REDIS_URL: redis is not installed; pip install 'reranking[redis]'") from error
    from limits.storage import RedisStorage  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.retry import Retry  # noqa: PLC0415

    pool = redis.ConnectionPool.from_url(
        url, socket_timeout=wait_s, socket_connect_timeout=wait_s, retry=Retry(NoBackoff(), 0)
    )
    return Window(RedisStorage("redis://", connection_pool=pool))
