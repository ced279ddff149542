"""What uses HTTP_PROXY: what goes to other machines, and nothing that stays on this one."""

import pytest
from client_kit import Both
from collectors import Collector
from proxies import Proxy
from reranking_client import AsyncRerankClient, RerankClient
from services.faulty_server import serving

from webapp.config.settings import Settings
from webapp.stack.local_client import ask
from webapp.telemetry.observer import Reply
from webapp.telemetry.tracing import Tracing


@pytest.fixture
def behind(monkeypatch):
    """Make this process one that is behind a proxy, which leads to `port`."""
    running = []

    def begin(port):
        proxy = Proxy(port)
        running.append(proxy.__enter__())
        for name, value in proxy.variables.items():
            monkeypatch.setenv(name, value)
        return proxy

    yield begin
    for proxy in running:
        proxy.__exit__()


def port_of(url):
    return int(url.rpartition(":")[2])


@pytest.fixture(params=[RerankClient, AsyncRerankClient], ids=["blocking", "asyncio"])
def both(request):
    made = Both(request.param)
    yield made
    made.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_client_of_this_machine_asks_no_proxy(both, behind, host):
    with serving() as server:
        proxy = behind(port_of(server.url))
        client = both.make(f"http://{host}:{port_of(server.url)}")
        assert both.call(client.rerank, "bees", ["a", "b"]).results
        assert proxy.asked == []


def test_a_client_of_another_machine_asks_the_proxy(both, behind):
    with serving() as server:
        proxy = behind(port_of(server.url))
        assert both.call(both.make("http://rerank.example").rerank, "bees", ["a", "b"]).results
        assert proxy.asked == ["POST http://rerank.example/rerank"]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])  # noqa: S104 - only read
def test_our_own_programs_ask_our_service_without_the_proxy(behind, host):
    with Collector() as server:
        proxy = behind(port_of(server.url))
        settings = Settings(host=host, port=port_of(server.url))
        with ask(settings, "/v1/traces", b"", timeout_s=5) as reply:
            assert reply.status == 200
        assert proxy.asked == []


@pytest.mark.parametrize(("host", "asked"), [("127.0.0.1", 0), ("localhost", 0), ("collector.example", 1)])
def test_spans_go_through_the_proxy_to_another_machine_alone(behind, host, asked):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with Collector() as collector:
        proxy = behind(port_of(collector.url))
        tracing = Tracing(f"http://{host}:{port_of(collector.url)}")
        tracing.start()
        tracing.replied(Reply("POST", "/rerank", "tei", 200, 0.25, "find-me", {}, {}))
        tracing.stop()
    assert len(collector.spans) == 1
    assert len(proxy.asked) == asked
