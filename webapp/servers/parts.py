"""Parts of the webapp whose making takes more than a line; `bootstrap` puts them in their places."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from contracts.events import Serves
from webapp.config.resources import memory_bytes
from webapp.config.settings import Settings
from webapp.domain.concurrency import Bridge
from webapp.domain.types import ModelInfo
from webapp.scheduling.admission import BODY_FACTOR
from webapp.scheduling.breaker import Breaker
from webapp.scheduling.scheduler import Scheduler
from webapp.service.cache.memory import PairScore
from webapp.service.cache.shared import SharedCache, Store
from webapp.service.fallback import EngineFallback
from webapp.service.rate_limit import REDIS_WAIT_S, Quota
from webapp.service.reranker import RerankService
from webapp.telemetry.publisher import Publisher
from webapp.telemetry.worker_stats import WorkerStats

BODY_MEMORY_BYTES = 512 * 1024 * 1024

log = logging.getLogger(__name__)


class _Patient:
    """A store whose callers let others work while it answers, and do not wait for ever for an answer in crumbs."""

    def __init__(self, store: Store, bridge: Bridge, seconds: float) -> None:
        self._store = store
        self._within = partial(bridge.within, seconds)

    def ping(self) -> None:
        self._within(self._store.ping)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, PairScore]:
        return self._within(lambda: self._store.get_many(keys))

    def set_many(self, entries: Sequence[tuple[bytes, PairScore, int]]) -> None:
        self._within(lambda: self._store.set_many(entries))


def shared_cache(settings: Settings, bridge: Bridge) -> SharedCache | None:
    """The second level of the pair cache, where there is a Redis."""
    url = settings.redis_url.get_secret_value()
    if not url or not settings.cache_mb:
        return None

    def connect() -> Store:
        from webapp.service.cache.redis import WHOLE_ANSWER_S, RedisStore  # noqa: PLC0415 - without Redis, no client

        return _Patient(RedisStore(url), bridge, WHOLE_ANSWER_S)

    def breaker(what: str) -> Breaker:
        return Breaker(lambda old, new: log.warning("Redis", extra={"what": what, "was": old, "state": new}))

    return SharedCache(
        connect,
        reads=breaker("lookups"),
        writes=breaker("writes"),
        make_waiter=bridge.make_waiter,
        spawn=bridge.spawn,
    )


def body_memory_bytes(settings: Settings) -> int:
    """Return the memory that large bodies may take in all processes; one of the largest size always fits."""
    least = settings.max_body_bytes * BODY_FACTOR
    if settings.max_body_memory_mb:
        return max(settings.max_body_memory_mb * 1024 * 1024, least)
    return max(min(BODY_MEMORY_BYTES, memory_bytes() // 4), least)


def quota(settings: Settings, bridge: Bridge) -> Quota:
    """What a caller may ask for in a minute."""
    url = settings.redis_url.get_secret_value()
    shared = None
    if url:
        from webapp.service.redis_rate_limit import in_redis  # noqa: PLC0415 - here, so that workers share it

        shared = in_redis(url, wait_s=REDIS_WAIT_S)
    return Quota(
        requests_per_minute=settings.requests_per_minute,
        documents_per_minute=settings.documents_per_minute,
        shared=shared,
        within=bridge.within,
    )


def serves(model: ModelInfo, release: int) -> Serves:
    """Return what dashboards say of the model."""
    return Serves(
        model=model.model,
        engine=model.engine,
        precision=model.precision,
        release=release,
        substitute_for=model.substitute_for or "",
    )


def vitals(service: RerankService, scheduler: Scheduler, guard: EngineFallback, publisher: Publisher) -> WorkerStats:
    """What the worker is like at the moment."""
    cache, totals, breaker = service.scoring.cache, scheduler.totals, guard.breaker
    return WorkerStats(
        state=service.state,
        in_flight=service.ongoing,
        queue_pairs=scheduler.queued_pairs,
        queue_tokens=scheduler.queued_tokens,
        body_memory_bytes=service.body_memory_bytes,
        scored_pairs=totals.pairs,
        batches=totals.batches,
        batch_tokens=totals.batch_tokens,
        budget_tokens=scheduler.budget_tokens,
        cache_hits=cache.hits if cache else 0,
        cache_misses=cache.misses if cache else 0,
        breaker=breaker.state,
        degraded=breaker.state != "closed",
        breaker_opened=breaker.opened,
        cache_bytes=cache.bytes if cache else 0,
        engine_failures=totals.failures,
        events_published=publisher.published,
        events_dropped=publisher.dropped,
        shapes=dict(totals.shapes),  # copied in one step, while engine threads go on
        model=service.model,
    )
