"""A real Prometheus scrapes two loaded workers, of which one is killed; a collector takes their traces."""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
from collectors import Collector, attributes
from prometheus_client.parser import text_string_to_metric_families
from prometheuses import SHIPPED, Prometheus
from running import PATIENCE_S, Stack, wait_for

from webapp.config import resources

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
]

ROOT = Path(__file__).resolve().parents[2]

FAULTY = str(ROOT / "tests" / "services" / "faulty")

SECONDS = float(os.environ.get("LOAD_SECONDS", "2"))
"""How long the load goes on; the figures in docs/metrics.md are of LOAD_SECONDS=60."""

TEXTS = ["milk keeps three days", "bees follow the sun", "the last train leaves at midnight"]

CALLS = {
    # (route, dialect, status): path, body, documents that are ranked
    ("/rerank", "native", "200"): ("/rerank", {"query": "q", "documents": [{"content": text} for text in TEXTS]}, 3),
    ("/rerank", "tei", "200"): ("/rerank", {"query": "q", "texts": TEXTS[:2]}, 2),
    ("/v1/rerank", "documents", "200"): ("/v1/rerank", {"query": "q", "documents": TEXTS}, 3),
    ("/v2/rerank", "cohere_v2", "400"): ("/v2/rerank", {"query": "q", "documents": 7}, 0),
    ("unmatched", "unknown", "404"): ("/nowhere", {}, 0),
}


@pytest.fixture(scope="module")
def collector():
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def service(tmp_path_factory, collector):
    """Two workers without a model, of one engine thread each."""
    chosen = {"max_documents": "1000", "max_queued_pairs": "1000", "otel_endpoint": collector.url}
    chosen["engine_threads"] = "1"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")  # ms
        environment.setenv("PYTHONPATH", FAULTY)
        stack = Stack(tmp_path_factory.mktemp("metrics"), engine="stub", workers="2", **chosen)
    with stack:
        yield stack


@pytest.fixture(scope="module")
def prometheus(service, tmp_path_factory):
    with Prometheus(tmp_path_factory.mktemp("prometheus"), f"127.0.0.1:{service.port}") as running:
        yield running


def load(service, seconds=SECONDS):
    """Every kind of call, four at a time. Returns how often each was made."""
    stop = threading.Event()

    def client(first):
        made, session, keys = Counter(), requests.Session(), list(CALLS)
        numbers = itertools.count(first)
        while not stop.is_set():
            number = next(numbers)
            key = keys[number % len(keys)]
            path, body, _ = CALLS[key]
            reply = session.post(f"{service.url}{path}", json=body, timeout=PATIENCE_S)
            assert str(reply.status_code) == key[2], reply.text
            made[key] += 1
        return made

    with ThreadPoolExecutor() as pool:
        clients = [pool.submit(client, first) for first in range(4)]
        stop.wait(seconds)
        stop.set()
        return sum((each.result() for each in clients), Counter())


def counted(prometheus):
    series = prometheus.ask('rerank_requests_total{route=~"/rerank|/v1/rerank|/v2/rerank|unmatched"}')
    keys = [tuple(each["metric"][label] for label in ("route", "dialect", "status")) for each in series]
    return Counter(dict(zip(keys, (int(float(each["value"][1])) for each in series), strict=True)))


def settled(read, expected):
    """Equal after the next scrapes."""
    with contextlib.suppress(AssertionError):
        wait_for(lambda: read() == expected, "scrapes")
    assert read() == expected


def test_what_prometheus_counts_is_what_the_load_generator_made(service, prometheus):
    before, documents_before = counted(prometheus), prometheus.value("rerank_document_count_sum")
    made = load(service)
    settled(lambda: counted(prometheus) - before, made)
    documents = sum(CALLS[key][2] * count for key, count in made.items())
    settled(lambda: prometheus.value("rerank_document_count_sum") - documents_before, documents)
    ranked = sum(count for key, count in made.items() if CALLS[key][2])
    for name in ("request_duration", "queue", "tokenise", "score"):
        wait_for(lambda each=name: prometheus.value(f"rerank_{each}_seconds_count") >= ranked, name)
    pairs = prometheus.value("rerank_cache_hits_total") + prometheus.value("rerank_cache_misses_total")
    trial = 1  # a document by which `serve` saw that it is ready: it is in no metric of requests
    assert pairs == prometheus.value("rerank_document_count_sum") + trial
    assert prometheus.value("rerank_active_requests") == prometheus.value("rerank_queue_pairs") == 0
    parts = " + ".join(f"rerank_{name}_seconds_sum" for name in ("queue", "tokenise", "score"))
    assert 0 < prometheus.value(parts) < prometheus.value("rerank_request_duration_seconds_sum")
    print(f"\n{sum(made.values())} requests and {documents} documents, all counted")  # noqa: T201 - for bench by hand


def test_every_metric_of_the_documentation_is_there(service, prometheus):
    assert service.rerank().status_code == 200
    names = re.findall(r"^\| `(\w+)` \| (\w+) \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert len(names) > 40
    present = {each["metric"]["__name__"] for each in prometheus.ask('{__name__=~"rerank_.*"}')}
    assert present >= {name + ("_count" if kind == "histogram" else "") for name, kind in names}
    assert prometheus.value('rerank_workers{state="ready"}') == 2
    assert prometheus.value("rerank_pusher_up") == 1
    assert (
        len(prometheus.ask("rerank_worker_rss_bytes > 1e7")) == len(prometheus.ask("rerank_worker_open_fds > 5")) == 2
    )


def test_every_query_of_the_dashboard_is_answered(service, prometheus):
    batch = [{"query": "q", "documents": [{"content": str(n)} for n in range(600)]}] * 2
    assert requests.post(f"{service.url}/rerank/batch", json=batch, timeout=PATIENCE_S).status_code == 413, "sheds"
    assert service.rerank(headers={"X-Request-Timeout": "0.000001"}).status_code == 429, "expires"
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "reranking.json").read_text())
    queries = [
        target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m")
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]
    assert len(queries) > 25
    load(service, 0.3)
    for query in queries:
        wait_for(lambda each=query: prometheus.ask(each), f"an answer to {query}")
    recorded = re.findall(r"record: (\S+)", (SHIPPED / "rules.yml").read_text())
    for name in recorded:
        wait_for(lambda each=name: prometheus.ask(each), f"the rule {name}")
    for_autoscalers = re.findall(r"^query: (.+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert len(for_autoscalers) == 2
    for query in for_autoscalers:
        wait_for(lambda each=query: prometheus.ask(each), f"an answer to {query}")


def scrape(service):
    reply = requests.get(f"{service.url}/metrics", timeout=PATIENCE_S)
    assert reply.status_code == 200, reply.text
    return reply.text


def counters(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        if family.type in {"counter", "histogram"}
        for sample in family.samples
        # The pusher's are left out while it is slow to answer, and nobody kills it here.
        if not sample.name.endswith("_created") and not sample.name.startswith("rerank_pusher_")
    }


def test_no_counter_goes_backwards_when_a_worker_is_killed(service, prometheus):
    stop, went_back = threading.Event(), []

    def watch():
        last = counters(scrape(service))
        while not stop.wait(0.05):
            now = counters(scrape(service))
            went_back.extend((name, value, now.get(name)) for name, value in last.items() if now.get(name, -1) < value)
            last = now

    before, starts = counted(prometheus), prometheus.value("rerank_worker_starts_total")
    victim = service.workers()[0]
    with ThreadPoolExecutor() as pool:
        watching, loading = pool.submit(watch), pool.submit(load, service, 1.5)
        stop.wait(0.5)
        os.kill(victim, signal.SIGKILL)
        made = loading.result()
        wait_for(lambda: prometheus.value("rerank_worker_starts_total") == starts + 1, "a new worker")
        wait_for(lambda: prometheus.value('rerank_workers{state="ready"}') == 2, "it is ready")
        stop.set()
        watching.result()
    assert went_back == []
    names = {each["metric"]["__name__"] for each in prometheus.ask('{__name__=~"rerank_.+_(total|count|sum|bucket)"}')}
    assert len(names) > 40
    assert [name for name in sorted(names) if prometheus.ask(f"resets({name}[5m]) > 0")] == []
    wait_for(lambda: not made - (counted(prometheus) - before), "no answered request is missing")
    assert not prometheus.ask(f'rerank_worker_rss_bytes{{worker="{victim}"}}'), "its levels went with it"


def cpu_seconds(service):
    """What the system says of all processes of the service, and of those that they waited for."""
    family = [psutil.Process(service.process.pid), *service.family()]
    times = [process.cpu_times() for process in family]
    return sum(each.user + each.system + each.children_user + each.children_system for each in times)


def test_cpu_time_is_that_of_all_processes_of_the_service_and_cores_are_those_it_may_use(service):
    tolerance_s = 0.5  # the kernel counts hundredths of a second, of each process
    load(service, 0.3)
    before = cpu_seconds(service)
    counted = counters(scrape(service))["rerank_cpu_seconds_total",]
    assert before - tolerance_s <= counted <= cpu_seconds(service) + tolerance_s
    assert f"rerank_cpu_cores {resources.cores()}\n" in scrape(service)


def test_the_age_of_the_queue_is_what_a_request_waits_for_a_thread(service, prometheus, tmp_path):
    go_on = tmp_path / "go-on"

    def ask(number):
        return service.rerank([f"document {number}"], body={"query": f"until {go_on}"}).status_code

    assert prometheus.value("rerank_queue_age_seconds") == 0
    with ThreadPoolExecutor() as pool:
        asked = []
        try:
            for number in range(1, 4):  # one after the other, so that no two are in one batch: two hold the two threads
                asked.append(pool.submit(ask, number))
                wait_for(lambda most=number: prometheus.value("rerank_queue_pairs") == most, "it is there")
                wait_for(go_on.with_suffix(".began").exists, "one is scored")
            wait_for(lambda: prometheus.value("rerank_queue_age_seconds") > 1, "the third waits")
        finally:
            go_on.touch()
        assert [each.result() for each in asked] == [200] * 3
    wait_for(lambda: prometheus.value("rerank_queue_age_seconds") == 0, "none waits")


def test_stopped_workers_and_a_dead_pusher_hide_nothing(service):
    workers = service.workers()
    pusher, exporter = service.pid_of("pusher"), service.pid_of("metrics")
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    try:
        os.kill(pusher, signal.SIGKILL)
        assert "rerank_requests_total" in scrape(service)
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGCONT)
    os.kill(exporter, signal.SIGKILL)
    refused = requests.get(f"{service.url}/metrics", timeout=PATIENCE_S)
    assert refused.status_code in {200, 503}
    wait_for(
        lambda: requests.get(f"{service.url}/metrics", timeout=PATIENCE_S).status_code == 200, "the exporter is back"
    )
    assert service.rerank().status_code == 200


def test_a_request_is_a_span_of_its_callers_trace(service, collector):
    trace = "0af7651916cd43dd8448eb211c80319c"
    reply = service.rerank(["planted"], headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    spans = wait_for(lambda: [span for span in collector.spans if span.trace_id.hex() == trace], "the span")
    assert attributes(spans[0])["rerank.request_id"] == reply.headers["X-Request-Id"]
    assert attributes(spans[0])["rerank.documents"] == 1
    assert "planted" not in str(collector.spans)


def test_only_reading_is_served_and_the_pushers_own_figures_are_not(service):
    assert requests.head(f"{service.url}/metrics", timeout=PATIENCE_S).status_code == 200
    assert requests.post(f"{service.url}/metrics", timeout=PATIENCE_S).json()["status"] == 405
    assert requests.get(f"{service.url}/figures", timeout=PATIENCE_S).status_code == 404


def promtool(*arguments, **options):
    program = str(shutil.which("promtool"))
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, **options)


def test_promtool_finds_no_fault_in_the_metrics(service):
    checked = promtool("check", "metrics", input=scrape(service))
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments", [["check", "config", "prometheus.yml"], ["test", "rules", "rules_test.yml"]], ids=["config", "rules"]
)
def test_promtool_finds_no_fault_in_what_ships(arguments):
    checked = promtool(*arguments, cwd=SHIPPED)
    assert checked.returncode == 0, checked.stdout + checked.stderr
