import time

import gevent
import pytest
from scheduling_kit import Rig

from webapp.domain.errors import DeadlineExceededError, InvalidRequestError, OverloadedError
from webapp.domain.types import RerankRequest
from webapp.engine.runtimes.stub import StubEngine
from webapp.scheduling.admission import Admission
from webapp.servers.gunicorn.bridge import GeventWaiter
from webapp.service.inflight import CallOptions, InflightScores
from webapp.service.reranker import RerankService


def service_on(rig, **changes):
    options = {
        "max_documents": 100,
        "texts": StubEngine().texts,
        "admission": Admission(max_ongoing_requests=2),
        **changes,
    }
    scoring = InflightScores(scheduler=rig.scheduler, cache=None, artifact="stub", make_waiter=GeventWaiter)
    return RerankService(model=StubEngine.info, scoring=scoring, **options)


def request(documents=("a", "b", "c")):
    return RerankRequest(query="q", documents=documents, originals=documents)


def soon():
    return CallOptions(time.monotonic() + 30)


def test_results_are_the_documents_in_order_of_score(stub_rig):
    result = service_on(stub_rig).rerank(request(), soon())
    assert sorted(result.order) == [0, 1, 2]
    assert result.scores == sorted(result.scores, reverse=True)
    assert result.tokens > 0


def test_a_request_whose_time_is_over_says_how_far_it_came_and_leaves_the_queue():
    rig = Rig(StubEngine())  # its engine threads never start
    with pytest.raises(DeadlineExceededError, match="0 of 3 documents"):
        service_on(rig).rerank(request(), CallOptions(time.monotonic() + 0.01))
    assert rig.scheduler.queued_pairs == 0


def test_a_full_service_refuses_before_any_work_and_recovers(stub_rig):
    admission = Admission(max_ongoing_requests=1)
    service = service_on(stub_rig, admission=admission)
    with admission.arrive(0), pytest.raises(OverloadedError) as caught:
        service.rerank(request(), soon())
    assert caught.value.retry_after_s >= 1
    assert service.rerank(request(), soon()).order


def test_a_failed_request_gives_its_place_back(stub_rig):
    service = service_on(stub_rig)
    for _ in range(5):
        with pytest.raises(InvalidRequestError):
            service.rerank(request(["x"] * 101), soon())
    assert service.ongoing == 0


@pytest.mark.parametrize("how", ["its stack drains", "another worker replaces it"])
def test_a_draining_service_serves_all_that_reaches_it(stub_rig, how):
    service = service_on(stub_rig, drains=lambda: how == "its stack drains")
    if how != "its stack drains":
        service.leave()
    assert service.rerank(request(), soon()).order
    service.mark_ready()
    assert service.state == "draining"
    assert service.readiness == ("draining" if how == "its stack drains" else "ready")


def test_many_requests_are_answered_in_order_each_with_its_own_error(stub_rig):
    outcomes = service_on(stub_rig).rerank_many([request(), request(["x"] * 101), request(["z"])], soon())
    assert [type(outcome).__name__ for outcome in outcomes] == ["RerankResult", "InvalidRequestError", "RerankResult"]


def test_a_call_of_very_many_requests_lets_others_have_their_turn(service, monkeypatch):
    begun, seen = [], set()
    plain = service.scoring.begin
    monkeypatch.setattr(service.scoring, "begin", lambda *given: begun.append(1) or plain(*given))

    def watch():
        while True:
            seen.add(len(begun))
            gevent.sleep(0)

    watching = gevent.spawn(watch)
    results = service.rerank_all([RerankRequest("q", [str(n)], [str(n)]) for n in range(1000)], soon())
    watching.kill()
    assert len(results) == len(begun) == 1000
    assert len(seen - {0, 1000}) >= 10
