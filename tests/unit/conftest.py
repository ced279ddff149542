import pytest
from app_kit import create_app

from webapp.engine.runtimes.stub import StubEngine
from webapp.scheduling.admission import Admission
from webapp.servers.gunicorn.bridge import GeventWaiter
from webapp.service.inflight import InflightScores
from webapp.service.reranker import RerankService


class Clock:
    """A clock in seconds that stands still until a test sets `now`."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def service(stub_rig):
    """A service on the stub engine."""
    return RerankService(
        model=StubEngine.info,
        scoring=InflightScores(scheduler=stub_rig.scheduler, cache=None, artifact="stub", make_waiter=GeventWaiter),
        admission=Admission(max_ongoing_requests=10),
        max_documents=10_000,
        texts=StubEngine().texts,
    )


@pytest.fixture
def client(service):
    """The API on it."""
    return create_app(service, request_timeout_s=30, max_body_bytes=100_000, limits={}).test_client()
