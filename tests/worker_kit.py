"""What telemetry reads from a worker, without a worker."""

from __future__ import annotations

from types import SimpleNamespace

from webapp.domain.types import ModelInfo
from webapp.scheduling.scheduler import Totals
from webapp.service.cache.memory import MemoryCache
from webapp.telemetry.publisher import Publisher
from webapp.telemetry.worker_stats import WorkerStats

MODEL = ModelInfo("m", "r", "stub", "stub", "none", 512, "sigmoid")


def stats(*, in_flight=0, queue_pairs=0, queue_tokens=0, queue_age_s=0.0, most_batches=0, **totals):
    """The stats of a ready worker."""
    return WorkerStats(
        service=SimpleNamespace(
            state="ready",
            ongoing=in_flight,
            model=MODEL,
            admission=SimpleNamespace(body_memory_bytes=0),
            scoring=SimpleNamespace(cache=MemoryCache(0)),
            fallback=SimpleNamespace(breaker=SimpleNamespace(state="closed", opened=0)),
        ),
        scheduler=SimpleNamespace(
            queued_pairs=queue_pairs,
            queued_tokens=queue_tokens,
            queue_age_s=queue_age_s,
            budget_tokens=256,
            most_batches=most_batches,
            totals=Totals(**totals),
        ),
        publisher=Publisher(""),
    )
