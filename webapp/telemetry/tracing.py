"""A span of each request, sent to an OpenTelemetry collector by OTLP over HTTP: gRPC breaks under gevent's patch.

A span is made when its request was answered, from the reply, so nothing is carried through the service. The packages
are an extra, `pip install 'reranking[tracing]'`, imported only when tracing is on. OTEL_* variables are the SDK's own.
"""

from __future__ import annotations

import threading
import time
from typing import Any
from urllib.parse import urlsplit

from webapp import __version__
from webapp.config.validators import is_loopback
from webapp.domain.errors import SetupError
from webapp.telemetry.observer import Observer, Reply

SERVER_ERROR = 500

COLLECTOR_TIMEOUT_S = 2.0
"""How long a batch of spans, and a worker that ends, wait for the collector."""

BATCH_SPANS = 128
"""Spans sent together: more would hold the hub for longer than a few milliseconds."""


class Tracing(Observer):
    """Makes spans of replies. They wait in a bounded queue for a greenlet that sends them; the rest is lost."""

    def __init__(self, endpoint: str) -> None:
        """Check that the packages are there, no more: threads and connections don't survive a fork.

        Raises:
            SetupError: they are not installed.
        """
        try:
            import opentelemetry.exporter.otlp.proto.http.trace_exporter  # noqa: PLC0415, F401 - an extra
        except ImportError as error:
            raise SetupError(
                f"RERANK_OTEL_ENDPOINT: {error.name} is not installed; pip install 'reranking[tracing]'"
            ) from error
        self._endpoint = endpoint
        self._provider: Any = None

    def start(self) -> None:
        """Begin to send. After the fork."""
        import requests  # noqa: PLC0415 - the exporter sends by it
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        ours = Resource({"service.name": "reranking", "service.version": __version__})
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before ours.
        self._provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        session = requests.Session()
        session.trust_env = not is_loopback(urlsplit(self._endpoint).hostname or "")  # proxies are for other machines
        exporter = OTLPSpanExporter(
            endpoint=f"{self._endpoint.rstrip('/')}/v1/traces", timeout=COLLECTOR_TIMEOUT_S, session=session
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_export_batch_size=BATCH_SPANS))
        self._tracer = self._provider.get_tracer("webapp", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._server, self._failed = SpanKind.SERVER, Status(StatusCode.ERROR)

    def replied(self, reply: Reply) -> None:
        """Make a span of a reply, in its caller's trace where `traceparent` names one."""
        if self._provider is None:
            return
        carried = {name: value for name in ("traceparent", "tracestate") if (value := reply.headers.get(name))}
        ended_ns = time.time_ns()
        span = self._tracer.start_span(
            f"{reply.method} {reply.route}",
            context=self._propagator.extract(carried),
            kind=self._server,
            start_time=ended_ns - int(reply.seconds * 1e9),
            attributes={
                "http.request.method": reply.method,
                "http.route": reply.route,
                "http.response.status_code": reply.status,
                "rerank.request_id": reply.request_id,
                **{f"rerank.{name}": fact for name, fact in reply.facts.items() if isinstance(fact, str | int | float)},
            },
        )
        if reply.status >= SERVER_ERROR:
            span.set_status(self._failed)
        span.end(ended_ns)

    def stop(self) -> None:
        """Send what waits, for at most `COLLECTOR_TIMEOUT_S`."""
        if self._provider is not None:
            # By itself it would wait half a minute for a collector that is not there.
            last = threading.Thread(target=self._provider.shutdown, daemon=True)
            last.start()
            last.join(COLLECTOR_TIMEOUT_S)
