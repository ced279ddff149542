"""The one composition root of the webapp: settings -> engine -> scheduler -> service -> app.

`build_service` makes what every process needs that reranks. `assemble` adds what serves HTTP; it runs in the gunicorn
master, before the fork: it reads files and builds objects, and starts nothing. `Webapp.start` runs in each worker,
after the fork: engine threads, then a real score, then ready. Stop order is the reverse: the worker takes no new
connections (`leave`), the greenlets finish, then the engine threads end (`stop`).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from wsgiref.types import WSGIApplication

from prometheus_client import CollectorRegistry

from contracts.api_keys import KeyRing
from contracts.events import Serves
from webapp.config.cards import LOCKS, check_workers, take_card
from webapp.config.resources import return_freed_blocks, trimmer, vector_instructions
from webapp.config.settings import Settings
from webapp.config.validators import listed
from webapp.domain.concurrency import (
    Bridge,
    NativeWaiter,
    Offload,
    Waiter,
    allocate_lock,
    run_inline,
    start_native_thread,
)
from webapp.domain.errors import EngineLostError, SetupError, reason_of
from webapp.domain.types import Session, names_of
from webapp.engine.artifact import comparison_summary
from webapp.engine.base import Engine
from webapp.engine.loader import load_engine
from webapp.engine.pool import EnginePool
from webapp.scheduling.admission import Admission, body_memory_bytes
from webapp.scheduling.breaker import State as BreakerState
from webapp.scheduling.scheduler import Scheduler, Watchdog
from webapp.scheduling.shared_sum import SharedSum
from webapp.service.cache.memory import MemoryCache
from webapp.service.fallback import EngineFallback, lexical_scores
from webapp.service.inflight import InflightScores
from webapp.service.rate_limit import CountsInRedis, Quota
from webapp.service.reranker import RerankService
from webapp.telemetry.metrics import Metrics
from webapp.telemetry.observer import Observer, Observers
from webapp.telemetry.progress import ProgressEvents
from webapp.telemetry.publisher import Publisher
from webapp.telemetry.tracing import Tracing
from webapp.telemetry.worker_stats import Reporter, WorkerStats

if TYPE_CHECKING:  # these need Flask and a client of Redis, which `build_service` does without
    from webapp.api.body_process import ProcessReader
    from webapp.api.reply_files import ReplyFiles
    from webapp.service.cache.redis import SharedCache

log = logging.getLogger(__name__)

MIB = 1024 * 1024

WARM_UP_TIMEOUT_S = 60.0

CARD_START_TIMEOUT_S = 110.0
"""The same where a card computes: its code may have to be compiled, and its driver to wake up."""

TRIM_S = 2.0
"""Between two times that freed memory is given back; it takes some milliseconds."""

WATCH_S = 1.0
"""How often the watchdog looks at the engine threads."""

PUBLISHED_LIMITS = (
    *("max_documents", "max_batch_requests", "max_body_bytes", "max_body_values", "max_ongoing_requests"),
    *("max_queued_pairs", "max_queued_tokens", "request_timeout_s", "requests_per_minute", "documents_per_minute"),
)
"""Settings in the reply of `/info`."""

WARM_UP_DOCUMENTS = ("ready", "A sentence of usual length, so that the first caller does not wait for it to compile.")


@dataclass(frozen=True, slots=True)
class Webapp:
    """All parts of a serving process, wired up."""

    app: WSGIApplication
    service: RerankService
    scheduler: Scheduler
    pool: EnginePool
    watchdog: Watchdog
    keys: KeyRing
    reporter: Reporter
    engine: Engine
    bridge: Bridge
    reader: ProcessReader
    cards_dir: Path
    """Where workers lock their cards."""
    tracing: Tracing | None = None
    max_rss_bytes: int = 0
    shared: SharedCache | None = None
    reply_files: ReplyFiles | None = None

    def start(self, on_started: Callable[[float | Exception], None], on_fault: Callable[[str], None]) -> None:
        """Begin to serve; return at once, the model compiles on a native thread.

        Args:
            on_started: called with the seconds it took, or the error; on the hub of the thread that called `start`.
            on_fault: called with the reason why this process can't go on; it refuses what needs the engine by then.
        """
        self.keys.reload()  # after HUP a new worker has the file's content from when the master read it
        for problem in self.keys.problems:
            log.error("a key is left out: %s", problem)
        if self.engine.most_batches and (card := take_card(self.cards_dir)):
            log.info("this worker computes on %s (%s)", card.name, card.id)
        self._start_background()
        self._open_reply_files()
        waiter = self.bridge.make_waiter()
        outcome: list[float | Exception | EngineLostError] = []

        def boot() -> None:
            began = time.monotonic()
            try:
                self.pool.start(self._fingerprint_scores)
                self._warm_up()
                outcome.append(time.monotonic() - began)
            except (Exception, EngineLostError) as error:  # noqa: BLE001 - handed to the hub, which can log
                outcome.append(error)
            waiter.wake()

        def report() -> None:
            limit_s = CARD_START_TIMEOUT_S if self.engine.most_batches else WARM_UP_TIMEOUT_S
            waiter.wait(limit_s)
            result = outcome[0] if outcome else TimeoutError(f"the model was not ready in {limit_s:g} s")
            if isinstance(result, EngineLostError):
                result = SetupError(str(result))
            if not isinstance(result, Exception):
                self.service.mark_ready()
                self.reporter.publish_state("ready")
                self.bridge.repeat(WATCH_S, watch)
            on_started(result)

        def watch() -> None:
            if fault := self.watchdog.fault():
                self.scheduler.close()
                on_fault(fault)

        start_native_thread(boot, ())
        self.bridge.spawn(report)

    def _open_reply_files(self) -> None:
        """Have nginx send large replies from files, where that is possible."""
        if self.reply_files is None:
            return
        try:
            self.reply_files.open()
        except OSError as error:
            log.warning("large replies are sent in pieces, which a worker's death can cut short: %s", error)
        else:
            self.bridge.repeat(self.reply_files.COLLECT_S, self.reply_files.collect)

    def _start_background(self) -> None:
        """Start what runs beside the requests."""
        self.reporter.start(self.bridge.repeat)
        if self.shared is not None:
            self.bridge.spawn(self.shared.start)
        if self.tracing is not None:
            self.tracing.start()
        self.bridge.repeat(TRIM_S, trimmer(lambda: self.service.admission.body_changes, self.service.offload))

    def _fingerprint_scores(self, session: Session) -> None:
        try:
            self.service.scores_fingerprint = self.engine.scores_fingerprint(session)
        except Exception as error:  # noqa: BLE001 - a worker serves without it, whatever is wrong with the golden pairs
            log.warning("this worker's scores have no fingerprint (%s)", reason_of(error))

    def _warm_up(self) -> None:
        waiter = NativeWaiter()
        ticket = self.scheduler.submit("is it", WARM_UP_DOCUMENTS, waiter.wake)
        if not waiter.wait(WARM_UP_TIMEOUT_S):
            raise TimeoutError(f"the first score was not made in {WARM_UP_TIMEOUT_S:g} s")
        if ticket.error is not None:
            raise ticket.error

    def leave(self) -> None:
        """Note that this process ends when its connections are closed. Signal-safe: only sets flags."""
        self.service.leave()
        self.reporter.publish_state("draining")

    def stop(self) -> None:
        """End the engine threads, which fails what still waits; then report that the worker goes down."""
        self.scheduler.close()
        self.reader.stop()
        if self.reply_files is not None:
            self.reply_files.close()
        self.reporter.stop()
        if self.tracing is not None:
            self.tracing.stop()


def build_service(
    settings: Settings,
    engine: Engine,
    make_waiter: Callable[[], Waiter],
    *,
    offload: Offload = run_inline,
    cache: MemoryCache | None = None,
    shared: SharedCache | None = None,
    drains: Callable[[], bool] = bool,
    observer: Observer | None = None,
    on_breaker_change: Callable[[BreakerState, BreakerState], None] = lambda _old, _new: None,
) -> tuple[RerankService, Scheduler, EnginePool]:
    """Wire up the use case, its queue and its engine threads, which do not run yet.

    `make_waiter` makes a waiter for each caller; `on_breaker_change` gets the old and the new state.
    """
    cores = len(os.sched_getaffinity(0))
    # A measured count may come from a larger machine, or one that this container has only a part of.
    threads = settings.engine_threads or min(engine.info.tuning.engine_threads or cores, cores)
    most_batches = engine.most_batches
    if most_batches and engine.info.tuning.batches_at_once:
        most_batches = min(most_batches, engine.info.tuning.batches_at_once)
    scheduler = Scheduler(
        lock=allocate_lock(),
        budget_tokens=settings.batch_tokens or engine.info.tuning.batch_tokens,
        threads=threads,
        padded=engine.padded,
        most_batches=most_batches,
        longest_pair_tokens=engine.info.max_length_tokens,
        first_tokens_per_s=engine.info.tuning.tokens_per_s,
    )
    service = RerankService(
        model=engine.info,
        scoring=InflightScores(
            scheduler=scheduler,
            cache=cache,
            shared=shared,
            artifact=f"{engine.info.identity}/{vector_instructions()}",
            make_waiter=make_waiter,
            offload=offload,
        ),
        admission=Admission(
            max_ongoing_requests=settings.max_ongoing_requests,
            max_queued_pairs=settings.max_queued_pairs,
            max_queued_tokens=settings.max_queued_tokens,
            max_body_memory_bytes=body_memory_bytes(settings.max_body_bytes, settings.max_body_memory_mb),
            body_memory=SharedSum(settings.body_memory_file),
            queue=scheduler,
        ),
        max_documents=settings.max_documents,
        texts=engine.texts,
        offload=offload,
        strict_model=settings.strict_model,
        names=names_of(engine.info, settings.model, listed(settings.served_model_name)),
        fallback=EngineFallback(lexical_scores if settings.degraded == "lexical" else None, on_breaker_change),
        drains=drains,
        observer=observer,
    )
    return service, scheduler, EnginePool(engine, scheduler.step, threads=threads, start_thread=start_native_thread)


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
        bridge: to the event loop that runs the requests.
        engine: the engine of these settings' artifact, if it is loaded already.
        cache: known scores, of any artifact; None: a new one.
        artifact: name of the release's artifact; see `load_engine`.

    Raises:
        SetupError: the model is not prepared, or damaged; or Redis' client is not installed.
    """
    # Here, for `rerank --local` needs no Flask.
    from webapp.api.app import create_app  # noqa: PLC0415
    from webapp.api.body_process import ProcessReader  # noqa: PLC0415
    from webapp.api.body_reader import Limits  # noqa: PLC0415
    from webapp.api.reply_files import ReplyFiles  # noqa: PLC0415
    from webapp.api.routes.info import Deployment  # noqa: PLC0415

    return_freed_blocks()  # first: an engine may know better
    engine = engine or load_engine(settings, artifact)
    if engine.most_batches:
        check_workers(settings.workers)
    quota, shared = _redis_users(settings, bridge)
    publisher = Publisher(
        settings.events_address if settings.events else "",
        color=settings.color,
        key=settings.events_key.get_secret_value(),
    )
    progress = ProgressEvents(publisher.publish, with_text=settings.events_text)
    tracing = Tracing(settings.otel_endpoint) if settings.otel_endpoint else None
    metrics = Metrics(CollectorRegistry())
    observers = Observers(metrics, *([progress] if settings.events else []), *([tracing] if tracing else []))
    service, scheduler, pool = build_service(
        settings,
        engine,
        bridge.make_waiter,
        offload=bridge.make_offload(),
        cache=MemoryCache(settings.cache_mb * MIB) if cache is None and settings.cache_mb else cache,
        shared=shared,
        drains=partial(os.access, settings.draining_file, os.F_OK) if settings.color else bool,  # only a stack drains
        observer=observers,
        on_breaker_change=progress.breaker_changed,
    )

    serves = Serves(
        model=engine.info.model,
        engine=engine.info.engine,
        precision=engine.info.precision,
        release=settings.release,
        substitute_for=engine.info.substitute_for or "",
    )
    reporter = Reporter(WorkerStats(service, scheduler, publisher), metrics, progress, serves)
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
            **{name: getattr(settings, name) for name in PUBLISHED_LIMITS},
            "max_body_memory_bytes": service.admission.max_body_memory_bytes,
        },
        reader=reader,
        keys=keys,
        quota=quota,
        watch=bridge.watch,
        observer=observers,
        deployment=Deployment(settings.color, settings.release),
        comparison=partial(comparison_summary, settings) if settings.color else str,  # only a stack compares
        reply_files=reply_files,
    )
    return Webapp(
        app=app,
        service=service,
        scheduler=scheduler,
        pool=pool,
        watchdog=Watchdog(scheduler, lambda: pool.died, stall_s=settings.engine_stall_s),
        keys=keys,
        engine=engine,
        bridge=bridge,
        cards_dir=settings.run_dir / LOCKS,
        reader=reader,
        reporter=reporter,
        max_rss_bytes=settings.max_rss_mb * MIB,
        tracing=tracing,
        shared=shared,
        reply_files=reply_files,
    )


def _redis_users(settings: Settings, bridge: Bridge) -> tuple[Quota, SharedCache | None]:
    """Return the rate limits and the second level of the cache, which use Redis where there is one.

    Raises:
        SetupError: Redis' client is not installed.
    """
    url = settings.redis_url.get_secret_value()
    quota = Quota(
        requests_per_minute=settings.requests_per_minute,
        documents_per_minute=settings.documents_per_minute,
        shared=CountsInRedis(url) if url else None,
        within=bridge.within,
    )
    if not url or not settings.cache_mb:
        return quota, None
    from webapp.service.cache import redis  # noqa: PLC0415 - without Redis, no client

    return quota, redis.SharedCache(redis.RedisStore(url), bridge)
