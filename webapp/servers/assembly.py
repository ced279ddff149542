"""The one composition root of the webapp: settings -> engine -> scheduler -> service -> app.

`assemble` runs in the gunicorn master, before the fork: it reads files and builds objects, and starts nothing.
`Webapp.start` runs in each worker, after the fork: engine threads, then a real score, then ready.
Stop order is the reverse: no new requests (`drain`), the greenlets finish, then the engine threads (`stop`).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from wsgiref.types import WSGIApplication

from prometheus_client import CollectorRegistry

from contracts.api_keys import KeyRing
from webapp.api.app import create_app
from webapp.api.body_process import ProcessReader
from webapp.api.body_reader import Limits
from webapp.api.reply_files import COLLECT_S, ReplyFiles
from webapp.api.routes.deployment import Deployment
from webapp.config.malloc import Trimming, return_large_blocks
from webapp.config.settings import Settings
from webapp.config.validators import listed
from webapp.domain.concurrency import Bridge, NativeWaiter, allocate_lock, start_native_thread
from webapp.engine import comparison
from webapp.engine.base import Engine
from webapp.engine.loader import load_engine
from webapp.engine.models.lexical import lexical_scores
from webapp.engine.pool import EnginePool
from webapp.scheduling.admission import Admission
from webapp.scheduling.scheduler import Scheduler
from webapp.scheduling.shared_sum import SharedSum
from webapp.scheduling.watchdog import Watchdog
from webapp.servers.parts import body_memory_bytes, quota, serves, shared_cache, vitals
from webapp.service.cache.memory import MemoryCache
from webapp.service.cache.shared import SharedCache
from webapp.service.fallback import EngineFallback
from webapp.service.inflight import InflightScores
from webapp.service.model_names import names_of
from webapp.service.reranker import RerankService
from webapp.telemetry.meter import Meter
from webapp.telemetry.metrics import Metrics
from webapp.telemetry.progress import ProgressEvents, SafeObserver
from webapp.telemetry.publisher import Publisher
from webapp.telemetry.reporter import Reporter
from webapp.telemetry.sampler import Sampler
from webapp.telemetry.tracing import Tracing
from webapp.telemetry.worker_stats import StatsSampler, WorkerStats

log = logging.getLogger(__name__)

WARM_UP_TIMEOUT_S = 60.0

TRIM_S = 2.0
"""Between two times that freed memory is given back; it takes some milliseconds."""

WATCH_S = 1.0
"""How often the engine threads are looked after."""

WARM_UP_DOCUMENTS = (
    "ready",
    "A sentence of ordinary length, so that the first caller does not wait for it to compile.",
)


@dataclass(frozen=True, slots=True)
class Webapp:
    """Everything that serves, wired up."""

    app: WSGIApplication
    service: RerankService
    scheduler: Scheduler
    pool: EnginePool
    watchdog: Watchdog
    keys: KeyRing
    sampler: Sampler
    engine: Engine
    bridge: Bridge
    reader: ProcessReader
    release: int = 0
    reporter: Reporter | None = None
    tracing: Tracing | None = None
    max_rss_bytes: int = 0
    shared: SharedCache | None = None
    reply_files: ReplyFiles | None = None

    def start(
        self, on_started: Callable[[float | Exception], None], on_fault: Callable[[str], None] = lambda _: None
    ) -> None:
        """Begin to serve; returns at once, the model compiles on a native thread.

        Args:
            on_started: told the seconds it took, or what went wrong; called on the thread that called `start`'s hub.
            on_fault: told in words that this process can't go on; `/ready` says 503 by then.
        """
        self._read_keys()
        self._start_telling()
        self._open_reply_files()
        waiter = self.bridge.make_waiter()
        outcome: list[float | Exception] = []

        def boot() -> None:
            began = time.monotonic()
            try:
                self.pool.start()
                self._warm_up()
                outcome.append(time.monotonic() - began)
            except Exception as error:  # noqa: BLE001 - handed to the hub, which can log
                outcome.append(error)
            waiter.wake()

        def report() -> None:
            waiter.wait(WARM_UP_TIMEOUT_S)
            result = outcome[0] if outcome else TimeoutError(f"the model was not ready in {WARM_UP_TIMEOUT_S:g} s")
            if not isinstance(result, Exception):
                self.service.mark_ready()
                if self.reporter is not None:
                    self.reporter.tell("ready")
                self.bridge.repeat(WATCH_S, watch)
            on_started(result)

        def watch() -> None:
            if fault := self.watchdog.fault():
                self.drain()
                on_fault(fault)

        start_native_thread(boot, ())
        self.bridge.spawn(report)

    def _read_keys(self) -> None:
        """HUP to gunicorn makes new workers of what the master read long ago, so each reads the file itself."""
        self.keys.reload()
        for problem in self.keys.problems:
            log.error("a key is left out: %s", problem)

    def _open_reply_files(self) -> None:
        """Have nginx send large replies from files, where that is possible."""
        if self.reply_files is None:
            return
        try:
            self.reply_files.open()
        except OSError as error:
            log.warning("large replies are sent in pieces, which a worker's death can cut short: %s", error)
        else:
            self.bridge.repeat(COLLECT_S, self.reply_files.collect)

    def _start_telling(self) -> None:
        """What goes on beside the requests."""
        self.sampler.start(self.bridge.repeat)
        if self.reporter is not None:
            self.reporter.start(self.bridge.repeat)
        if self.shared is not None:
            self.bridge.spawn(self.shared.start)
        if self.tracing is not None:
            self.tracing.start()
        self.bridge.repeat(TRIM_S, Trimming(lambda: self.service.body_changes, self.service.elsewhere).step)

    def _warm_up(self) -> None:
        waiter = NativeWaiter()
        ticket = self.scheduler.submit("is it", WARM_UP_DOCUMENTS, waiter.wake)
        if not waiter.wait(WARM_UP_TIMEOUT_S):
            raise TimeoutError(f"the first score was not made in {WARM_UP_TIMEOUT_S:g} s")
        if ticket.error is not None:
            raise ticket.error

    def drain(self) -> None:
        """Admit nothing new. Only sets flags, so a signal handler may call it."""
        self.service.drain()
        if self.reporter is not None:
            self.reporter.tell("draining")

    def leave(self) -> None:
        """Another worker takes over, but what still reaches us is answered. As above."""
        self.service.leave()
        if self.reporter is not None:
            self.reporter.tell("draining")

    def stop(self) -> None:
        """End the engine threads; what still waits fails. Then say goodbye to those who watch."""
        self.scheduler.close()
        self.reader.stop()
        if self.reply_files is not None:
            self.reply_files.close()
        self.sampler.sample()
        if self.reporter is not None:
            self.reporter.stop()
        if self.tracing is not None:
            self.tracing.stop()


def assemble(
    settings: Settings,
    bridge: Bridge,
    engine: Engine | None = None,
    cache: MemoryCache | None = None,
    artifact: str = "",
) -> Webapp:
    """Wire the webapp up, ready to be forked.

    Args:
        settings: what to serve, and how.
        bridge: to what runs the requests.
        engine: of these settings' artifact, where it was loaded before.
        cache: scores that are known already, of any artifact.
        artifact: the one that the release names; see `load_engine`.

    Raises:
        SetupError: the model is not prepared, or damaged.
    """
    return_large_blocks()  # first: an engine may know better
    engine = engine or load_engine(settings, artifact)
    cores = len(os.sched_getaffinity(0))
    # A measured count may come from a larger machine, or one that this container has only a part of.
    threads = settings.engine_threads or min(engine.info.tuning.engine_threads or cores, cores)
    scheduler = Scheduler(
        lock=allocate_lock(),
        budget_tokens=settings.batch_tokens or engine.info.tuning.batch_tokens,
        threads=threads,
        longest_pair_tokens=engine.info.max_length_tokens,
        first_tokens_per_s=engine.info.tuning.tokens_per_s,
    )
    pool = EnginePool(engine, scheduler.step, threads=threads, start_thread=start_native_thread)
    shared = shared_cache(settings, bridge)
    elsewhere = bridge.make_offload()
    scoring = InflightScores(
        scheduler=scheduler,
        cache=_memory_cache(settings) if cache is None else cache,
        shared=shared,
        artifact=engine.info.identity,
        make_waiter=bridge.make_waiter,
        elsewhere=elsewhere,
    )
    publisher = Publisher(settings.events_address, color=settings.color)
    progress = ProgressEvents(publisher.publish, with_text=settings.events_text)
    tracing = Tracing(settings.otel_endpoint) if settings.otel_endpoint else None
    metrics = Metrics(CollectorRegistry())
    meter = Meter(metrics)
    guard = EngineFallback(degraded=settings.degraded, lexical=lexical_scores, on_change=progress.breaker_changed)
    max_body_memory = body_memory_bytes(settings)
    service = RerankService(
        model=engine.info,
        scoring=scoring,
        admission=Admission(
            max_ongoing_requests=settings.max_ongoing_requests,
            max_queued_pairs=settings.max_queued_pairs,
            max_queued_tokens=settings.max_queued_tokens,
            max_body_memory_bytes=max_body_memory,
            body_memory=SharedSum(settings.body_memory_file),
            queue=scheduler,
        ),
        max_documents=settings.max_documents,
        texts=engine.texts,
        elsewhere=elsewhere,
        strict_model=settings.strict_model,
        names=names_of(engine.info, settings.model, listed(settings.served_model_name)),
        guard=guard,
        observer=SafeObserver(progress) if settings.events else None,
    )

    def read() -> WorkerStats:
        return vitals(service, scheduler, guard, publisher)

    pulse = StatsSampler(read, serves=serves(engine.info, settings.release))
    reporter = Reporter(publisher=publisher, progress=progress, pulse=pulse) if settings.events else None
    limits = Limits(
        settings.max_body_bytes, settings.max_body_values, settings.max_queued_pairs, settings.max_batch_requests
    )
    reader = ProcessReader(bridge.make_waiter, limits)
    keys = KeyRing(settings.api_keys.get_secret_value(), settings.api_keys_file, settings.own_key)
    reply_files = ReplyFiles(settings.replies_dir) if settings.color else None  # only a stack's nginx sends them
    app = create_app(
        service,
        request_timeout_s=settings.request_timeout_s,
        max_body_bytes=settings.max_body_bytes,
        limits={
            "max_documents": settings.max_documents,
            "max_batch_requests": settings.max_batch_requests,
            "max_body_bytes": settings.max_body_bytes,
            "max_body_values": settings.max_body_values,
            "max_body_memory_bytes": max_body_memory,
            "max_ongoing_requests": settings.max_ongoing_requests,
            "max_queued_pairs": settings.max_queued_pairs,
            "max_queued_tokens": settings.max_queued_tokens,
            "request_timeout_s": settings.request_timeout_s,
            "requests_per_minute": settings.requests_per_minute,
            "documents_per_minute": settings.documents_per_minute,
        },
        reader=reader,
        keys=keys,
        quota=quota(settings, bridge),
        watch=bridge.watch,
        watchers=[
            meter.replied,
            *([progress.replied] if settings.events else []),
            *([tracing.replied] if tracing else []),
        ],
        deployment=Deployment(settings.color, settings.release),
        comparison=partial(comparison.summary, settings) if settings.color else str,  # only a stack compares
        reply_files=reply_files,
    )
    watchdog = Watchdog(scheduler, pool, stall_s=settings.engine_stall_s)
    return Webapp(
        app,
        service,
        scheduler,
        pool,
        watchdog,
        keys,
        Sampler(metrics, meter, engine.info, read),
        engine,
        bridge,
        reader,
        release=settings.release,
        reporter=reporter,
        max_rss_bytes=settings.max_rss_mb * 1024 * 1024,
        tracing=tracing,
        shared=shared,
        reply_files=reply_files,
    )


def _memory_cache(settings: Settings) -> MemoryCache | None:
    return MemoryCache(settings.cache_mb * 1024 * 1024) if settings.cache_mb else None
