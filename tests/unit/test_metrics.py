import contextlib
import dataclasses
import os
import re
import resource
from pathlib import Path

import pytest
from app_kit import create_app
from asking import ask, post
from prometheus_client import CollectorRegistry, Histogram
from worker_kit import stats

from webapp import __version__
from webapp.domain.errors import (
    CancelledError,
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    RerankError,
    UnavailableError,
)
from webapp.domain.types import RerankRequest
from webapp.scheduling.admission import Admission
from webapp.telemetry import metrics as module
from webapp.telemetry.exporter import registry as exported
from webapp.telemetry.metrics import SHARES, BufferedHistogram, LevelGauge, Metric, Metrics, reference
from webapp.telemetry.observer import Observer, Observers, Reply
from webapp.telemetry.progress import ProgressEvents
from webapp.telemetry.worker_stats import Reporter

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "metrics.md.in").read_text()


class Metered:
    """Metrics, and what is in their registry."""

    def __init__(self):
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)

    def value(self, name, **labels):
        self.metrics.publish()
        return self.registry.get_sample_value(name, labels)


@pytest.fixture
def metered():
    return Metered()


RANKED = {"documents": 3, "tokens": 50, "queue_ms": 2000.0, "tokenise_ms": 30.0, "score_ms": 400.0}


def reply(**fields):
    known = {"method": "POST", "route": "/rerank", "dialect": "tei", "status": 200, "seconds": 0.02}
    return Reply(**{**known, "request_id": "r", "headers": {}, "facts": RANKED, **fields})


def test_a_rerank_is_counted_with_its_documents_tokens_and_times(metered):
    metered.metrics.replied(reply())
    metered.metrics.replied(reply(facts={**RANKED, "documents": 5}))
    assert metered.value("rerank_document_count_sum") == 8
    assert metered.value("rerank_document_count_bucket", le="5.0") == 2
    assert metered.value("rerank_request_tokens_sum") == 100
    assert metered.value("rerank_queue_seconds_sum") == 4
    assert metered.value("rerank_tokenise_seconds_sum") == pytest.approx(0.06)
    assert metered.value("rerank_score_seconds_bucket", le="0.5") == 2


def test_a_degraded_rerank_is_counted_apart(metered):
    metered.metrics.replied(reply(facts={**RANKED, "degraded": True}))
    assert metered.value("rerank_degraded_requests_total") == 1
    assert metered.value("rerank_score_seconds_count") == 0


def test_what_was_refused_expired_or_cancelled_is_counted_by_reason(metered):
    errors = [
        OverloadedError("full", reason="tokens"),
        UnavailableError("closing"),
        InvalidRequestError("too many documents"),
        CancelledError("gone"),
        *[DeadlineExceededError("late", figures={"scored": scored, "total": 3}) for scored in (0, 2, 3)],
    ]
    for error in errors:
        metered.metrics.replied(reply(status=500, facts={"documents": 3}, error=error))
    assert metered.value("rerank_shed_total", reason="tokens") == 1
    assert metered.value("rerank_shed_total", reason="unavailable") == 1
    assert metered.value("rerank_shed_total", reason="invalid_request") is None
    assert [metered.value("rerank_expired_total", reason=each) for each in ("waiting", "scoring", "reply")] == [1, 1, 1]
    assert metered.value("rerank_cancelled_total") == 1


def test_every_limit_says_which_one_it_was():
    def reason(**limits):
        admission = Admission(**{"max_ongoing_requests": 9, **limits})
        request = RerankRequest(query="q", documents=["a" * 400] * 3, originals=[])

        @contextlib.contextmanager
        def admitted():
            with admission.arrive(0), admission.admit([request]):
                yield

        with pytest.raises(RerankError) as raised, admitted(), admitted():
            pass
        return raised.value.reason

    assert reason(max_ongoing_requests=1) == "requests"
    assert reason(max_queued_pairs=4) == "documents"
    assert reason(max_queued_tokens=500) == "tokens"
    assert reason(max_queued_pairs=2) == "too_large"


def test_only_answered_reranks_tell_how_fast_they_were(metered):
    metered.metrics.replied(reply())
    metered.metrics.replied(reply(status=503))
    metered.metrics.replied(reply(route="/health", dialect="none", facts={}))
    assert metered.value("rerank_request_duration_seconds_count") == 1
    assert metered.value("rerank_requests_total", route="/rerank", dialect="tei", status="503") == 1
    assert metered.value("rerank_requests_total", route="/health", dialect="none", status="200") == 1


def test_the_api_tells_of_every_reply_by_route_and_dialect(service):
    observer = Observer()
    observer.replied = (told := []).append
    api = create_app(service, request_timeout_s=30, max_body_bytes=100_000, limits={}, observer=observer)
    client = api.test_client()
    ask(client)
    client.get("/health")
    for number in range(3):
        client.get(f"/nothing/{number}")
    post(client, "/v1/retrieval/any/model/reranking", {"query": {"text": "q"}, "passages": [{"text": "t"}]})
    post(client, "/rerank", b"rubbish")
    assert [(each.route, each.dialect, each.status, each.ranked) for each in told] == [
        ("/v1/rerank", "documents", 200, True),
        ("/health", "none", 200, False),
        *[("unmatched", "unknown", 404, False)] * 3,
        ("/v1/retrieval/<path:model>/reranking", "nim", 200, True),
        ("/rerank", "unknown", 400, False),
    ]
    assert "text" not in str([each.facts for each in told])
    assert [type(each.error).__name__ for each in told[-1:]] == ["InvalidRequestError"]


def test_a_watcher_that_fails_reaches_no_reply(service, caplog):
    class Broken(Observer):
        def replied(self, _reply):
            raise KeyError("broken")

    observer = Observers(Broken())
    api = create_app(service, request_timeout_s=30, max_body_bytes=100_000, limits={}, observer=observer)
    for _ in range(3):
        ask(api.test_client())
    assert caplog.text.count("an observer failed") == 1


def test_replies_say_in_teis_headers_where_the_time_went(client):
    headers = post(client, "/rerank", {"query": "q", "texts": ["one two", "three"]}).headers
    assert int(headers["x-compute-tokens"]) == 4 + 2  # the documents, and the query, which the stub reads by itself
    names = ("x-total-time", "x-queue-time", "x-tokenization-time", "x-inference-time")
    assert all(re.fullmatch(r"\d+", headers[name]) for name in names)


def test_a_histogram_kept_in_memory_is_published_as_if_each_value_were_observed():
    registry = CollectorRegistry()
    observed = Histogram("observed", "x", buckets=SHARES, registry=registry)
    kept = BufferedHistogram(Metric(BufferedHistogram, "published", "x", float, buckets=SHARES), registry)
    for share in (0.0, 0.1, 0.11, 0.95, 1.0, 3.0):
        kept.record(share)
        observed.observe(share)
        kept.publish()

    def samples(name):
        (family,) = [each for each in registry.collect() if each.name == name]
        return [(each.name.removeprefix(name), each.labels, each.value) for each in family.samples][:-1]

    assert samples("published") == samples("observed")


def test_the_reporter_samples_levels_and_what_totals_grew_by(metered):
    now, worker = [10.0], stats()
    worker.cache.hits = 5
    reporter = Reporter(worker, metered.metrics, ProgressEvents(worker.publisher.publish), clock=lambda: now[0])
    reporter.start(lambda _interval, _step: None)
    assert metered.value("rerank_workers", state="ready") == 1
    assert metered.value("rerank_worker_starts_total") == 1
    labels = {"model": "m", "revision": "r", "engine": "stub", "precision": "none", "version": __version__}
    assert metered.value("rerank_model_info", **labels) == 1
    worker.scheduler.totals.sizes |= {(4, 128): 2, (9, 4608): 1}
    worker.cache.hits, worker.breaker.state = 7, "open"
    worker.service.ongoing, worker.service.state = 4, "draining"
    for late_s in (0.0, 0.3, *[0.0] * 20):
        now[0] += 0.05 + late_s
        reporter.step()
    assert metered.value("rerank_cache_hits_total") == 7
    assert metered.value("rerank_worker_starts_total") == 1
    assert metered.value("rerank_active_requests") == 4
    assert metered.value("rerank_batch_pairs_sum") == 17
    assert metered.value("rerank_batch_tokens_count") == 3
    assert metered.value("rerank_batch_fill_ratio_sum") == 2
    assert metered.value("rerank_breaker_state") == 2
    assert metered.value("rerank_workers", state="ready") == 0
    pid = str(os.getpid())
    assert metered.value("rerank_degraded") == 1
    assert metered.value("rerank_hub_lag_seconds", worker=pid) == pytest.approx(0.3)
    assert metered.value("rerank_worker_rss_bytes", worker=pid) > 1_000_000
    assert metered.value("rerank_worker_open_fds", worker=pid) > 2


def test_the_seconds_of_engine_threads_are_counted_by_what_they_did(metered):
    worker = stats(tokenising_s=3.5, scoring_s=8.0, waiting_s=0.5)
    metered.metrics.sample(worker)
    worker.scheduler.totals.waiting_s = 2.0
    metered.metrics.sample(worker)
    found = {
        activity: metered.value("rerank_engine_thread_seconds_total", activity=activity)
        for activity in ("tokenising", "scoring", "waiting")
    }
    assert found == {"tokenising": 3.5, "scoring": 8.0, "waiting": 2.0}


@pytest.mark.parametrize(("most_batches", "busy_s"), [(0, 2.5), (2, 7.0)])
def test_an_engine_is_busy_for_as_long_as_its_threads_are_and_a_card_while_it_has_a_batch(
    metered, most_batches, busy_s
):
    totals = {"tokenising_s": 2.0, "scoring_s": 8.0, "waiting_s": 30.0, "threads": 4, "device_busy_s": 7.0}
    metered.metrics.sample(stats(most_batches=most_batches, **totals))
    assert metered.value("rerank_engine_busy_seconds_total") == busy_s


def test_an_engine_without_threads_yet_is_not_busy(metered):
    metered.metrics.sample(stats())
    assert metered.value("rerank_engine_busy_seconds_total") == 0


def test_the_wait_of_the_request_that_waits_longest_is_a_level(metered):
    for age_s in (7.5, 0.0):
        metered.metrics.sample(stats(queue_age_s=age_s))
        assert metered.value("rerank_queue_age_seconds") == age_s


def test_a_total_with_labels_shows_from_the_start(metered):
    assert metered.value("rerank_engine_thread_seconds_total", activity="waiting") == 0


def test_a_reporter_that_fails_is_heard_of_once(metered, caplog):
    worker = dataclasses.replace(stats(), service=None)
    reporter = Reporter(worker, metered.metrics, ProgressEvents(worker.publisher.publish))
    reporter.start(lambda _interval, _step: None)
    reporter.stop()
    assert caplog.text.count("metrics could not be sampled") == 1


def test_the_documentation_is_made_from_the_metrics():
    run = "run: .venv/bin/python -m webapp.telemetry.metrics > docs/metrics.md"
    assert (ROOT / "docs" / "metrics.md").read_text() == reference(PAGE), run


def test_the_documentation_has_every_metric_that_is_served(tmp_path):
    """Name, type, labels and meaning, each as the registries of a worker and of the exporter have it."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", reference(PAGE), re.MULTILINE)
    table = {name: cells for name, *cells in rows}
    registry = CollectorRegistry()
    Metrics(registry)
    served = {
        metric._name + ("_total" if metric._type == "counter" else ""): [
            metric._type,
            ", ".join(f"`{label}`" for label in metric._labelnames),
            metric._documentation,
        ]
        for metric in registry._collector_to_names
    }
    assert {name: row for name, row in table.items() if name in served} == served
    told = {
        family.name + ("_total" if family.type == "counter" else ""): family.documentation
        for family in exported(tmp_path, "/nowhere", os.getpid()).collect()
    }
    assert set(told) == {"rerank_pusher_up", "rerank_metrics_files", "rerank_cpu_seconds_total", "rerank_cpu_cores"}
    assert {name: table[name][2] for name in told} == told
    assert all(re.match("rerank_(pusher|metrics|cpu)_", name) for name in set(table) - set(served))


def test_a_metric_takes_one_line(monkeypatch):
    text = "Tokens that a batch may hold."
    line = Metric(LevelGauge, "rerank_budget_tokens", text, lambda worker: worker.scheduler.budget_tokens)
    monkeypatch.setattr(module, "PER_SECOND", (*module.PER_SECOND, line))
    metered = Metered()
    metered.metrics.sample(stats())
    assert metered.value("rerank_budget_tokens") == 256
    assert "| `rerank_budget_tokens` | gauge |  | Tokens that a batch may hold. |" in reference("{{ workers }}")


def test_without_a_free_descriptor_all_that_needs_none_is_told(metered):
    """A pulse and memory are read from /proc. Levels, batches and histograms go on."""
    worker = stats(in_flight=7, batches=1, sizes={(4, 128): 1})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        metered.metrics.sample(worker)
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert metered.value("rerank_active_requests") == 7
    assert metered.value("rerank_batch_pairs_count") == 1
