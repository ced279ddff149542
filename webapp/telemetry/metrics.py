"""Every metric that a worker keeps, by name. docs/metrics.md is its table, and a test holds the two together.

prometheus_client writes to files in $PROMETHEUS_MULTIPROC_DIR (memory without it), see `multiprocess`; `exporter` adds
them up. So a gauge says how: live ones forget dead workers, sums add, max takes the worst. No gauge is per process by
the library's own `pid` label, for the master, which makes these objects before the fork, would show with zeros.
"""

from __future__ import annotations

from typing import Literal

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from webapp.telemetry import multiprocess
from webapp.telemetry.histogram import (
    BATCH_PAIRS,
    BATCH_TOKENS,
    DOCUMENTS,
    REQUEST_TOKENS,
    SECONDS,
    SHARES,
    BucketCounts,
)

SHED_REASONS = ("requests", "documents", "tokens", "memory", "late", "draining", "breaker", "too_large")
EXPIRED_REASONS = ("waiting", "scoring", "reply")
MODEL_LABELS = ("model", "revision", "engine", "precision", "version")
STATES = ("loading", "ready", "draining")
BREAKER = {"closed": 0, "half_open": 1, "open": 2}

Mode = Literal["livesum", "livemax"]


class ExportedHistogram(Histogram):
    """A histogram that is kept elsewhere as plain numbers, and published by differences."""

    def publish(self, tally: BucketCounts) -> None:
        """Add what is new in a tally with this histogram's bounds; always the same one."""
        last_counts, last_total = getattr(self, "_last", ([0] * len(tally.counts), 0.0))
        counts, total = list(tally.counts), tally.total
        for bucket, count, last in zip(self._buckets, counts, last_counts, strict=True):
            if count > last:
                bucket.inc(count - last)
        if total > last_total:
            self._sum.inc(total - last_total)
        self._last = counts, total


class Metrics:
    """All of them; made once a process, for names are unique in a registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        multiprocess.use_slots()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, mode: Mode, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry, multiprocess_mode=mode)

        def tallied(name: str, text: str, bounds: tuple[float, ...]) -> ExportedHistogram:
            return ExportedHistogram(name, text, registry=registry, buckets=bounds)

        self.requests = counter(
            "rerank_requests", "HTTP requests that a worker answered.", "route", "dialect", "status"
        )
        self.duration = tallied(
            "rerank_request_duration_seconds",
            "Time of reranks that were answered with 2xx, from arrival at the worker to the reply.",
            SECONDS,
        )
        self.queue = tallied("rerank_queue_seconds", "Of a rerank: waiting for an engine thread.", SECONDS)
        self.tokenise = tallied("rerank_tokenise_seconds", "Of a rerank: its texts were tokenised.", SECONDS)
        self.score = tallied("rerank_score_seconds", "Of a rerank: pairs of it were in a batch.", SECONDS)
        self.documents = tallied("rerank_document_count", "Documents of a rerank.", DOCUMENTS)
        self.tokens = tallied("rerank_request_tokens", "Tokens of all pairs of a rerank.", REQUEST_TOKENS)

        self.shed = counter("rerank_shed", "Requests refused at the door, by what was full or wrong.", "reason")
        self.expired = counter("rerank_expired", "Requests whose time was over, by how far they were.", "reason")
        self.cancelled = counter("rerank_cancelled", "Requests given up because the caller hung up.")
        self.degraded_requests = counter("rerank_degraded_requests", "Reranks answered by BM25.")
        self.active = gauge("rerank_active_requests", "Requests at work.", "livesum")
        self.queue_pairs = gauge("rerank_queue_pairs", "Documents admitted and not yet scored.", "livesum")
        self.queue_tokens = gauge("rerank_queue_tokens", "Padded tokens that wait; partly estimated.", "livesum")

        self.body_memory = gauge(
            "rerank_body_memory_bytes", "Memory charged for large bodies at work and their replies.", "livesum"
        )

        self.batch_pairs = tallied("rerank_batch_pairs", "Pairs of a batch.", BATCH_PAIRS)
        self.batch_tokens = tallied("rerank_batch_tokens", "Padded tokens of a batch.", BATCH_TOKENS)
        self.batch_fill = tallied("rerank_batch_fill_ratio", "Share of the token budget that a batch used.", SHARES)
        self.engine_errors = counter("rerank_engine_errors", "Batches and chunks that the engine could not do.")
        self.breaker_state = gauge(
            "rerank_breaker_state", "0 closed, 1 half open, 2 open; the worst of all workers.", "livemax"
        )
        self.breaker_opened = counter("rerank_breaker_opened", "Times that the breaker opened.")
        self.degraded = gauge("rerank_degraded", "1 while a worker leaves its engine alone.", "livemax")
        self.cache_hits = counter("rerank_cache_hits", "Pairs whose score was known.")
        self.cache_misses = counter("rerank_cache_misses", "Pairs whose score was not known.")
        self.cache_bytes = gauge("rerank_cache_bytes", "Memory of the pair caches, about.", "livesum")

        self.workers = gauge("rerank_workers", "Workers in this state.", "livesum", "state")
        self.worker_starts = counter("rerank_worker_starts", "Workers that began.")
        self.hub_lag = gauge(
            "rerank_hub_lag_seconds", "Longest that the event loop was late in the last 15 s.", "livemax", "worker"
        )
        self.rss = gauge(
            "rerank_worker_rss_bytes", "Resident memory, pages shared with the master counted.", "livemax", "worker"
        )
        self.fds = gauge("rerank_worker_open_fds", "Open file descriptors.", "livemax", "worker")
        self.model_info = gauge("rerank_model_info", "1 for what is served.", "livemax", *MODEL_LABELS)
        self.events_published = counter("rerank_events_published", "Progress events sent to the pusher.")
        self.events_dropped = counter("rerank_events_dropped", "Progress events lost on the way to the pusher.")

        # A rate needs a first value: who is counted from 1 on has lost the first.
        for reason in SHED_REASONS:
            self.shed.labels(reason)
        for reason in EXPIRED_REASONS:
            self.expired.labels(reason)
        for state in STATES:
            self.workers.labels(state)
