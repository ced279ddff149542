import sys
import threading

import pytest
from collectors import Collector, attributes
from running import PATIENCE_S

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.telemetry.observer import Reply
from webapp.telemetry.tracing import Tracing

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def reply(status=200, **headers):
    facts = {"documents": 3, "dialect": "tei", "score_ms": 1.5}
    return Reply("POST", "/rerank", "tei", status, 0.25, "find-me", headers, facts)


def test_a_request_becomes_a_span_of_its_callers_trace():
    with Collector() as collector:
        tracing = Tracing(collector.url)
        tracing.replied(reply())  # before the fork there is nothing to send it with
        tracing.start()
        tracing.replied(reply(traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="vendor=1"))
        tracing.stop()
    (span,) = collector.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == (TRACE, PARENT, "vendor=1")
    assert (span.name, span.end_time_unix_nano - span.start_time_unix_nano) == ("POST /rerank", 250_000_000)
    said = attributes(span)
    assert (said["http.route"], said["http.response.status_code"]) == ("/rerank", 200)
    assert (said["rerank.request_id"], said["rerank.documents"], said["rerank.score_ms"]) == ("find-me", 3, 1.5)
    assert collector.resources[0]["service.name"] == "reranking"


def test_a_caller_decides_whether_its_trace_is_kept_and_rubbish_begins_a_new_one():
    with Collector() as collector:
        tracing = Tracing(collector.url)
        tracing.start()
        tracing.replied(reply(traceparent=f"00-{TRACE}-{PARENT}-00"))
        tracing.replied(reply(status=503, traceparent="rubbish"))
        tracing.stop()
    (span,) = collector.spans
    assert span.trace_id.hex() != TRACE
    assert not span.parent_span_id
    assert span.status.code == 2, "an error"


def test_a_collector_that_is_not_there_costs_a_worker_that_ends_a_bounded_time():
    tracing = Tracing("http://127.0.0.1:9")
    tracing.start()
    for _ in range(100):
        tracing.replied(reply())
    ending = threading.Thread(target=tracing.stop, daemon=True)
    ending.start()
    ending.join(PATIENCE_S)
    assert not ending.is_alive()


def test_without_the_packages_the_service_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SetupError, match=r"RERANK_OTEL_ENDPOINT.*pip install 'reranking\[tracing\]'"):
        Tracing("http://127.0.0.1:4318")


def test_nothing_is_imported_while_it_is_off():
    assert Settings().otel_endpoint == ""
    import subprocess

    said = subprocess.run(
        [sys.executable, "-c", "import webapp.servers.assembly, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "opentelemetry" not in said
