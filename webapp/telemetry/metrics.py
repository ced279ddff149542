"""Every metric of the service, declared once: kind, name, help text and labels, beside the callable that reads it.

To add one, add its line to the table of what it is read from, then run
`python -m webapp.telemetry.metrics > docs/metrics.md`. A worker's levels and totals are read from its parts
(`worker_stats.WorkerStats`). Collection, the exporter and that page come from the tables; the page's text is
`docs/metrics.md.in`.

prometheus_client writes to files in $PROMETHEUS_MULTIPROC_DIR (memory without it), see `multiprocess`; `exporter` adds
them up. So a gauge says how: `livesum` adds the workers that live, `livemax` takes the highest of them. No gauge uses
the library's own `pid` label: the master makes these objects before the fork, and would show up with zeros.
"""

from __future__ import annotations

import contextlib
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from webapp import __version__
from webapp.config.paths import ROOT
from webapp.domain.errors import CancelledError, DeadlineExceededError, OverloadedError, UnavailableError
from webapp.telemetry import multiprocess
from webapp.telemetry.observer import Observer, Reply

if TYPE_CHECKING:  # the exporter reads the tables, and must stay small
    from webapp.telemetry.worker_stats import WorkerStats

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
DOCUMENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
REQUEST_TOKENS = (64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576)
BATCH_PAIRS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)
BATCH_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

SHED_REASONS = ("requests", "documents", "tokens", "memory", "late", "breaker", "too_large")
EXPIRED_REASONS = ("waiting", "scoring", "reply")
MODEL_LABELS = ("model", "revision", "engine", "precision", "version")
STATES = ("loading", "ready", "draining")
ACTIVITIES = ("tokenising", "scoring", "waiting")
BREAKER = {"closed": 0, "half_open": 1, "open": 2}

MOST_CHILDREN = 2000
"""Most combinations of labels that one metric counts; there are far fewer, unless something is wrong."""

Source = TypeVar("Source")
Mode = Literal["livesum", "livemax"]
Recorders = list[tuple[Callable[[Any], Any], Callable[..., None]]]
"""What reads each metric of a table, and what records that."""
Levels = float | Mapping[tuple[Any, ...], float]
"""One level or total, or one for each combination of labels' values."""


@dataclass(frozen=True, slots=True)
class Metric(Generic[Source]):
    """The declaration of one metric."""

    kind: type[EventCounter | TotalCounter | LevelGauge | BufferedHistogram]
    name: str
    text: str
    read: Callable[[Source], Any]
    """Returns what `kind.record` takes."""
    labels: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    """Values of the one label that show from the start: a rate needs a first value, or it misses the first event."""
    mode: Mode = "livesum"
    """How the gauges of several workers become one."""
    buckets: Sequence[float] = ()
    """Upper bounds of a histogram, each of them included."""


class EventCounter:
    """A counter of events, written through at once: a killed worker takes no event out of the count."""

    type: ClassVar = "counter"

    def __init__(self, metric: Metric[Any], registry: CollectorRegistry) -> None:
        self._counter = Counter(metric.name, metric.text, metric.labels, registry=registry)
        self._children: dict[tuple[object, ...], Counter] = {}
        for value in metric.known:
            self._counter.labels(value)

    def record(self, labels: tuple[object, ...] | None) -> None:
        """Count one event with these values of the labels; none where that is None."""
        if labels is None:
            return
        child = self._children.get(labels)
        if child is None:
            if len(self._children) >= MOST_CHILDREN:
                return
            child = self._counter.labels(*map(str, labels)) if labels else self._counter
            self._children[labels] = child
        child.inc()


class TotalCounter:
    """A counter of something that is counted already; it takes over the growth of a total."""

    type: ClassVar = "counter"

    def __init__(self, metric: Metric[Any], registry: CollectorRegistry) -> None:
        self._counter = Counter(metric.name, metric.text, metric.labels, registry=registry)
        self._last: dict[tuple[Any, ...], float] = {}
        for value in metric.known:
            self._counter.labels(value)

    def record(self, total: Levels) -> None:
        """Add what the total grew by since the last call, with labels each of them; it began at 0 with this process."""
        for labels, each in total.items() if isinstance(total, Mapping) else (((), total),):
            if growth := each - self._last.get(labels, 0):
                (self._counter.labels(*labels) if labels else self._counter).inc(growth)
                self._last[labels] = each


class LevelGauge:
    """A level."""

    type: ClassVar = "gauge"

    def __init__(self, metric: Metric[Any], registry: CollectorRegistry) -> None:
        self._gauge = Gauge(metric.name, metric.text, metric.labels, registry=registry, multiprocess_mode=metric.mode)
        for value in metric.known:
            self._gauge.labels(value)

    def record(self, level: Levels) -> None:
        """Set the level; with labels, the level of each combination of their values."""
        if isinstance(level, Mapping):
            for labels, each in level.items():
                self._gauge.labels(*map(str, labels)).set(each)
        else:
            self._gauge.set(level)


class BufferedHistogram(Histogram):
    """Counts by range, kept in memory, which costs a fifth of writing through; `publish` writes them."""

    type: ClassVar = "histogram"

    def __init__(self, metric: Metric[Any], registry: CollectorRegistry) -> None:
        super().__init__(metric.name, metric.text, registry=registry, buckets=metric.buckets)
        self._counts = [0] * len(self._buckets)
        """One a range; the last counts what is above all bounds."""
        self._total = 0.0
        self._published = list(self._counts), self._total

    def record(self, value: float, times: int = 1) -> None:
        """Record `times` observations of a value."""
        self._counts[bisect_left(self._upper_bounds, value)] += times
        self._total += value * times

    def publish(self) -> None:
        """Write what is new since the last call."""
        last_counts, last_total = self._published
        counts, total = self._published = list(self._counts), self._total
        for bucket, count, last in zip(self._buckets, counts, last_counts, strict=True):
            if count > last:
                bucket.inc(count - last)
        if total > last_total:
            self._sum.inc(total - last_total)


class Batch(NamedTuple):
    """A batch that the engine scored."""

    pairs: int
    tokens: int
    """As the engine computes them."""
    budget_tokens: int
    """What it may hold."""


def _shed(reply: Reply) -> tuple[str] | None:
    error = reply.error
    if error is None or isinstance(error, DeadlineExceededError | CancelledError):
        return None
    shed = error.reason or isinstance(error, OverloadedError | UnavailableError)
    return (error.reason or error.code,) if shed else None


def _expired(reply: Reply) -> tuple[str] | None:
    if not isinstance(reply.error, DeadlineExceededError):
        return None
    scored, total = reply.error.figures.get("scored", 0), reply.error.figures.get("total", 0)
    if not scored:
        return ("waiting",)
    return ("scoring",) if scored < total else ("reply",)


def _served(worker: WorkerStats) -> dict[tuple[str, ...], int]:
    model = worker.service.model
    return {(model.model, model.revision, model.engine, model.precision, __version__): 1}


def _thread_seconds(worker: WorkerStats) -> dict[tuple[str, ...], float]:
    totals = worker.scheduler.totals
    seconds = totals.tokenising_s, totals.scoring_s, totals.waiting_s
    return {(activity,): each for activity, each in zip(ACTIVITIES, seconds, strict=True)}


def _busy_seconds(worker: WorkerStats) -> float:
    """Return for how long the engine worked; what it can do is used up where that is all the time.

    Without a card there is room while one of the threads waits, so that it says little that another has a batch.
    """
    totals = worker.scheduler.totals
    if worker.scheduler.most_batches:
        return float(totals.device_busy_s)
    return float((totals.tokenising_s + totals.scoring_s) / max(totals.threads, 1))


# fmt: off
PER_REPLY: tuple[Metric[Reply], ...] = (
    Metric(EventCounter, "rerank_requests", "HTTP requests that a worker answered.", lambda r: (r.route, r.dialect, r.status), ("route", "dialect", "status")),
)
"""Read from every reply, of any route."""

PER_RERANK: tuple[Metric[Reply], ...] = (
    Metric(BufferedHistogram, "rerank_request_duration_seconds", "Time of reranks that were answered with 2xx, from arrival at the worker to the reply.", lambda r: r.seconds, buckets=SECONDS),
    Metric(BufferedHistogram, "rerank_document_count", "Documents of a rerank.", lambda r: r.facts["documents"], buckets=DOCUMENTS),
    Metric(EventCounter, "rerank_degraded_requests", "Reranks answered by BM25.", lambda r: () if r.facts.get("degraded") else None),
)
"""Read from replies of reranks with status 2xx."""

PER_SCORED_RERANK: tuple[Metric[Reply], ...] = (
    Metric(BufferedHistogram, "rerank_queue_seconds", "Of a rerank: waiting for an engine thread.", lambda r: r.facts["queue_ms"] / 1000, buckets=SECONDS),
    Metric(BufferedHistogram, "rerank_tokenise_seconds", "Of a rerank: its texts were tokenised.", lambda r: r.facts["tokenise_ms"] / 1000, buckets=SECONDS),
    Metric(BufferedHistogram, "rerank_score_seconds", "Of a rerank: pairs of it were in a batch.", lambda r: r.facts["score_ms"] / 1000, buckets=SECONDS),
    Metric(BufferedHistogram, "rerank_request_tokens", "Tokens of all pairs of a rerank.", lambda r: r.facts["tokens"], buckets=REQUEST_TOKENS),
)
"""Read from those of them that the engine scored."""

PER_FAILURE: tuple[Metric[Reply], ...] = (
    Metric(EventCounter, "rerank_shed", "Requests refused at the door, by what was full or wrong.", _shed, ("reason",), known=SHED_REASONS),
    Metric(EventCounter, "rerank_expired", "Requests whose time was over, by how far they were.", _expired, ("reason",), known=EXPIRED_REASONS),
    Metric(EventCounter, "rerank_cancelled", "Requests given up because the caller hung up.", lambda r: () if isinstance(r.error, CancelledError) else None),
)
"""Read from replies that are errors."""

PER_BATCH: tuple[Metric[Batch], ...] = (
    Metric(BufferedHistogram, "rerank_batch_pairs", "Pairs of a batch.", lambda b: b.pairs, buckets=BATCH_PAIRS),
    Metric(BufferedHistogram, "rerank_batch_tokens", "Tokens of a batch; padding counts where the engine pads.", lambda b: b.tokens, buckets=BATCH_TOKENS),
    # A pair that is longer than the budget makes a batch of its own.
    Metric(BufferedHistogram, "rerank_batch_fill_ratio", "Share of the token budget that a batch used.", lambda b: min(b.tokens / b.budget_tokens, 1.0), buckets=SHARES),
)
"""Read from batches, once a second."""

PER_SECOND: tuple[Metric[WorkerStats], ...] = (
    Metric(LevelGauge, "rerank_active_requests", "Requests at work.", lambda w: w.service.ongoing),
    Metric(LevelGauge, "rerank_queue_pairs", "Documents admitted and not yet scored.", lambda w: w.scheduler.queued_pairs),
    Metric(LevelGauge, "rerank_queue_tokens", "Tokens that wait; partly estimated.", lambda w: w.scheduler.queued_tokens),
    Metric(LevelGauge, "rerank_queue_age_seconds", "Longest that a request which waits for an engine thread now has waited; 0 where none waits. The worst of all workers.", lambda w: w.scheduler.queue_age_s, mode="livemax"),
    Metric(LevelGauge, "rerank_body_memory_bytes", "Memory charged for large bodies at work and their replies.", lambda w: w.service.admission.body_memory_bytes),
    Metric(TotalCounter, "rerank_engine_errors", "Batches and chunks that the engine could not do.", lambda w: w.scheduler.totals.failures),
    Metric(TotalCounter, "rerank_engine_thread_seconds", "Time of the engine threads, added up over all workers. If hardly any is waiting while the engine is not always busy, tokenising is the bound.", _thread_seconds, ("activity",), known=ACTIVITIES),
    Metric(TotalCounter, "rerank_engine_busy_seconds", "Time that the engine works, added up over all workers: on a card, with at least one batch in hand; else the time in which its threads work, divided by their number. Of one worker, rate() is the share of time.", _busy_seconds),
    Metric(LevelGauge, "rerank_breaker_state", "0 closed, 1 half open, 2 open; the worst of all workers.", lambda w: BREAKER[w.breaker.state], mode="livemax"),
    Metric(TotalCounter, "rerank_breaker_opened", "Times that the breaker opened.", lambda w: w.breaker.opened),
    Metric(LevelGauge, "rerank_degraded", "1 while a worker leaves its engine alone.", lambda w: w.breaker.state != "closed", mode="livemax"),
    Metric(TotalCounter, "rerank_cache_hits", "Pairs whose score was known.", lambda w: w.cache.hits),
    Metric(TotalCounter, "rerank_cache_misses", "Pairs whose score was not known.", lambda w: w.cache.misses),
    Metric(LevelGauge, "rerank_cache_bytes", "Memory of the pair caches, about.", lambda w: w.cache.bytes),
    Metric(LevelGauge, "rerank_workers", "Workers in this state.", lambda w: {(state,): state == w.service.state for state in STATES}, ("state",), known=STATES),
    Metric(TotalCounter, "rerank_worker_starts", "Workers that began.", lambda _: 1),
    Metric(LevelGauge, "rerank_hub_lag_seconds", "Longest that the event loop was late in the last 15 s.", lambda w: {(w.pid,): w.longest_hub_lag_s}, ("worker",), mode="livemax"),
    Metric(LevelGauge, "rerank_worker_rss_bytes", "Resident memory, pages shared with the master counted.", lambda w: {(w.pid,): w.rss_bytes}, ("worker",), mode="livemax"),
    Metric(LevelGauge, "rerank_worker_open_fds", "Open file descriptors.", lambda w: {(w.pid,): w.open_fds}, ("worker",), mode="livemax"),
    Metric(LevelGauge, "rerank_model_info", "1 for what is served.", _served, MODEL_LABELS, mode="livemax"),
    Metric(TotalCounter, "rerank_events_published", "Progress events sent to the pusher.", lambda w: w.publisher.published),
    Metric(TotalCounter, "rerank_events_dropped", "Progress events lost on the way to the pusher.", lambda w: w.publisher.dropped),
)
"""Read from a worker, once a second."""

Figures = Mapping[str, Any]
"""What the pusher counts, by name: the reply of its `/figures`."""

PUSHER_UP = Metric(LevelGauge, "rerank_pusher_up", "Whether the pusher answers.", bool)
PUSHER: tuple[Metric[Figures], ...] = (
    Metric(LevelGauge, "rerank_pusher_clients", "Connected browsers and followers.", lambda p: {("socketio",): p["sockets"], ("sse",): p["streams"]}, ("kind",)),
    Metric(TotalCounter, "rerank_pusher_frames", "ZeroMQ frames that the pusher took in.", lambda p: p["frames"]),
    Metric(TotalCounter, "rerank_pusher_events", "Events in them.", lambda p: p["events"]),
    Metric(TotalCounter, "rerank_pusher_malformed", "Frames that were no frames.", lambda p: p["malformed"]),
    Metric(TotalCounter, "rerank_pusher_newer", "Frames of a later version, skipped.", lambda p: p["newer"]),
    Metric(TotalCounter, "rerank_pusher_ignored", "Events of more running requests than the pusher follows.", lambda p: p["ignored"]),
    Metric(TotalCounter, "rerank_pusher_lost_frames", "Frames that never came, by their numbers.", lambda p: p["lost_frames"]),
    Metric(TotalCounter, "rerank_pusher_stalled", "Browsers let go because they did not read.", lambda p: p["stalled"]),
)
"""Read from the pusher, at each scrape."""

FILES = Metric(LevelGauge, "rerank_metrics_files", "Files that workers keep for /metrics; the next worker goes on with those of a dead one.", int)
"""Read from the folder of metrics, at each scrape."""

CPU_SECONDS = Metric(TotalCounter, "rerank_cpu_seconds", "CPU time of all processes of the service, nginx and dead ones too.", float)
CPU_CORES = Metric(LevelGauge, "rerank_cpu_cores", "Cores that the service may use: the machine's, or fewer by affinity or by a control group's quota.", float)
"""Read from the system, at each scrape."""
# fmt: on


class Metrics(Observer):
    """All metrics that a worker keeps. Made once a process, for names are unique in a registry.

    `replied` runs on the hub's thread for every request, so it does as little as it can.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        multiprocess.use_slots()
        self._registry = registry
        self._histograms: list[BufferedHistogram] = []
        self._per_reply = self._recorders(PER_REPLY)
        self._per_failure = self._recorders(PER_FAILURE)
        self._per_rerank = self._recorders(PER_RERANK)
        self._per_scored_rerank = self._recorders(PER_SCORED_RERANK)
        self._per_batch = self._recorders(PER_BATCH)
        self._per_second = self._recorders(PER_SECOND)
        self._sizes: Mapping[tuple[int, int], int] = {}

    def replied(self, reply: Reply) -> None:
        """Count a reply of any route."""
        _record(self._per_reply, reply)
        if reply.error is not None:
            _record(self._per_failure, reply)
        elif reply.ranked:
            _record(self._per_rerank, reply)
            if not reply.facts.get("degraded"):
                _record(self._per_scored_rerank, reply)

    def sample(self, worker: WorkerStats) -> None:
        """Record how a worker is, and write what was counted in memory; once a second."""
        last, self._sizes = self._sizes, dict(worker.scheduler.totals.sizes)  # in one step: engine threads go on
        for (rows, tokens), count in self._sizes.items():
            if new := count - last.get((rows, tokens), 0):
                _record(self._per_batch, Batch(rows, tokens, worker.scheduler.budget_tokens), new)
        for read, record in self._per_second:
            with contextlib.suppress(OSError):  # some are read from /proc, which needs a free descriptor
                record(read(worker))
        self.publish()

    def publish(self) -> None:
        """Write what was counted in memory."""
        for each in self._histograms:
            each.publish()

    def _recorders(self, metrics: Iterable[Metric[Any]]) -> Recorders:
        """Make metrics; returns what reads each of them, and what records that."""
        made = [(metric.read, metric.kind(metric, self._registry)) for metric in metrics]
        self._histograms += [instrument for _, instrument in made if isinstance(instrument, BufferedHistogram)]
        return [(read, instrument.record) for read, instrument in made]


def _record(recorders: Recorders, source: object, *times: int) -> None:
    for read, record in recorders:
        record(read(source), *times)


def reference(page: str) -> str:
    """Return a page of documentation with the tables of all metrics in the places that it names."""
    workers: list[Metric[Any]] = [*PER_REPLY, *PER_RERANK, *PER_SCORED_RERANK, *PER_FAILURE, *PER_BATCH, *PER_SECOND]
    exporter: list[Metric[Any]] = [PUSHER_UP, *PUSHER, FILES, CPU_SECONDS, CPU_CORES]
    return page.replace("{{ workers }}", _table(workers)).replace("{{ exporter }}", _table(exporter))


def _table(metrics: Iterable[Metric[Any]]) -> str:
    rows = ["| name | type | labels | meaning |", "|---|---|---|---|"]
    for metric in metrics:
        name = f"{metric.name}_total" if metric.kind.type == "counter" else metric.name
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{name}` | {metric.kind.type} | {labels} | {metric.text} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.stdout.write(reference((ROOT / "docs" / "metrics.md.in").read_text(encoding="utf-8")))
