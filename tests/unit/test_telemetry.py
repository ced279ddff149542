import dataclasses
import time

import pytest
import zmq
from prometheus_client import CollectorRegistry
from running import PATIENCE_S, wait_for
from scheduling_kit import Rig
from worker_kit import stats

from contracts.events import Accepted, Expired, Finished, Progress, Shed, Worker, decode
from webapp.domain.errors import DeadlineExceededError, InvalidRequestError, OverloadedError
from webapp.domain.types import RerankRequest
from webapp.engine.runtimes.stub import StubEngine
from webapp.scheduling.admission import Admission
from webapp.scheduling.scheduler import Totals
from webapp.servers.gunicorn.bridge import GeventWaiter
from webapp.service.inflight import CallOptions, InflightScores
from webapp.service.reranker import RerankService
from webapp.telemetry.metrics import Metrics
from webapp.telemetry.observer import Caller, Observers
from webapp.telemetry.progress import ProgressEvents
from webapp.telemetry.publisher import BUFFER_EVENTS, Publisher
from webapp.telemetry.worker_stats import PulseMaker, Reporter

CALLER = Caller("req-1", "native", "owner")


def request(documents=("a", "b", "c"), query="topsecret"):
    return RerankRequest(query=query, documents=documents, originals=documents)


def service_on(rig, observer, **changes):
    options = {"max_documents": 100, "admission": Admission(max_ongoing_requests=2), **changes}
    scoring = InflightScores(scheduler=rig.scheduler, cache=None, artifact="stub", make_waiter=GeventWaiter)
    return RerankService(model=StubEngine.info, scoring=scoring, texts=StubEngine().texts, observer=observer, **options)


def soon():
    return CallOptions(time.monotonic() + 30, CALLER)


def test_a_request_that_runs_on_is_accepted_once():
    said = []
    events = ProgressEvents(said.append)
    token = events.accepted(CALLER, [request()], lambda: 0)
    events.publish_new()
    events.publish_new()
    assert said == [Accepted(id="req-1", dialect="native", owner="owner", pairs=3)]
    events.ended(token, [])
    events.publish_new()
    assert [type(event) for event in said] == [Accepted, Finished]


def test_a_short_request_is_told_by_its_end_without_any_text(stub_rig):
    said = []
    service_on(stub_rig, ProgressEvents(said.append)).rerank(request(), soon())
    (finished,) = said
    assert isinstance(finished, Finished)
    assert (finished.status, finished.pairs, finished.cached, finished.truncated) == ("ok", 3, 0, 0)
    assert finished.latency_ms > 0
    assert "topsecret" not in str(said)


def test_a_query_is_told_only_when_asked_for(stub_rig):
    said = []
    service_on(stub_rig, ProgressEvents(said.append, with_text=True)).rerank(request(), soon())
    assert said[0].query == "topsecret"


def test_a_full_service_tells_that_it_shed(stub_rig):
    said = []
    admission = Admission(max_ongoing_requests=1)
    service = service_on(stub_rig, ProgressEvents(said.append), admission=admission)
    with admission.arrive(0), pytest.raises(OverloadedError):
        service.rerank(request(), soon())
    assert [(type(event), event.reason) for event in said] == [(Shed, "full")]


def test_an_expired_request_says_how_far_it_came():
    said = []
    with pytest.raises(DeadlineExceededError):
        service_on(Rig(StubEngine()), ProgressEvents(said.append)).rerank(
            request(), CallOptions(time.monotonic() + 0.01, CALLER)
        )
    assert isinstance(said[-1], Expired)
    assert (said[-1].scored, said[-1].pairs) == (0, 3)


def test_a_request_that_fails_tells_its_code(stub_rig):
    said = []
    with pytest.raises(InvalidRequestError):
        service_on(stub_rig, ProgressEvents(said.append)).rerank(request(["x"] * 101), soon())
    assert said[-1].status == "invalid_request"


def test_progress_is_told_when_it_moves_and_once_a_second_when_it_does_not():
    said, scored, now = [], [0], [100.0]
    events = ProgressEvents(said.append, clock=lambda: now[0])
    token = events.accepted(CALLER, [request()], lambda: scored[0])
    del said[:]
    for step in range(20):
        now[0] += 0.25
        scored[0] = min(3, step // 8)
        events.tick()
    assert [event.scored for event in said] == [0, 0, 1, 1, 2]
    assert all(isinstance(event, Progress) for event in said)
    events.ended(token, [])
    del said[:]
    now[0] += 5
    events.tick()
    assert said == []


def test_progress_counts_cached_pairs_and_never_goes_back():
    said, scored, now = [], [2], [100.0]
    events = ProgressEvents(said.append, clock=lambda: now[0])
    events.accepted(CALLER, [request()], lambda: scored[0])
    for value in (2, 1, 99):
        scored[0] = value
        now[0] += 2
        events.tick()
    assert [event.scored for event in said] == [2, 2, 3]


def test_an_observer_that_fails_reaches_no_request(stub_rig, caplog):
    def fail(_event):
        raise KeyError("broken")

    guarded = Observers(ProgressEvents(fail))
    service = service_on(stub_rig, guarded)
    for _ in range(3):
        assert service.rerank(request(), soon()).order
    assert caplog.text.count("an observer failed") == 1


@pytest.fixture
def pull(tmp_path):
    context = zmq.Context()
    socket = context.socket(zmq.PULL)
    socket.set(zmq.RCVTIMEO, int(PATIENCE_S * 1000))
    socket.set(zmq.LINGER, 0)
    address = f"ipc://{tmp_path}/events.sock"
    yield address, socket
    socket.close()
    context.term()


def until_published(publisher, event):
    """Publish until the connection stands; what goes before is dropped, and counted."""

    def published():
        publisher.publish(event)
        publisher.flush()
        return publisher.published

    wait_for(published, "the connection stands")


def test_events_arrive_in_frames(pull):
    address, socket = pull
    socket.bind(address)
    publisher = Publisher(address, color="green")
    publisher.start()
    until_published(publisher, Worker(state="ready"))
    frame = decode(socket.recv())
    assert (frame.source.color, frame.seq, frame.events) == ("green", 0, [Worker(state="ready")])
    publisher.publish(Worker(state="down"))
    publisher.close()
    assert decode(socket.recv()).events == [Worker(state="down")]


def test_without_a_pusher_events_are_dropped_counted_and_nothing_waits(tmp_path):
    publisher = Publisher(f"ipc://{tmp_path}/nobody.sock")
    publisher.start()
    for _ in range(BUFFER_EVENTS + 100):
        publisher.publish(Worker(state="ready"))
    assert publisher.dropped == 100
    publisher.flush()
    assert publisher.dropped == BUFFER_EVENTS + 100
    publisher.close()  # returns although nobody ever connected


def test_events_that_are_off_are_neither_kept_nor_counted():
    publisher = Publisher("")
    publisher.start()
    for _ in range(BUFFER_EVENTS + 100):
        publisher.publish(Worker(state="ready"))
    publisher.close()
    assert (publisher.published, publisher.dropped) == (0, 0)


def test_a_pusher_that_does_not_read_fills_a_bounded_queue_and_blocks_nobody(pull):
    address, socket = pull
    socket.set(zmq.RCVHWM, 1)
    socket.bind(address)
    publisher = Publisher(address)
    publisher.start()
    until_published(publisher, Worker(state="ready"))
    for _ in range(200):
        for _ in range(1000):
            publisher.publish(Worker(state="ready"))
        publisher.flush()  # returns although nobody reads
    assert publisher.dropped > 0
    publisher.close()


def test_a_pulse_has_rates_since_the_last_one():
    now = [10.0]
    maker = PulseMaker(clock=lambda: now[0])
    worker = stats(queue_pairs=7)
    first = maker.make(worker)
    assert (first.pairs_per_s, first.batch_fill, first.cache_hit_ratio) == (0.0, None, None)
    now[0] += 2
    worker.cache.hits, worker.cache.misses, worker.publisher.dropped, worker.hub_lag_s = 3, 1, 5, 0.00126
    worker.scheduler.totals = Totals(pairs=100, batches=4, batch_tokens=512)
    pulse = maker.make(worker)
    assert (pulse.pairs_per_s, pulse.batch_fill, pulse.cache_hit_ratio) == (50.0, 0.5, 0.75)
    assert (pulse.queue_pairs, pulse.hub_lag_ms, pulse.dropped_events) == (7, 1.3, 5)
    assert pulse.rss_bytes > 1_000_000


def test_the_reporter_pulses_once_a_second_and_measures_how_late_the_hub_is(tmp_path):
    now = [50.0]
    publisher = Publisher(f"ipc://{tmp_path}/nobody.sock")
    progress = ProgressEvents(publisher.publish)
    metrics = Metrics(CollectorRegistry())
    worker = dataclasses.replace(stats(), publisher=publisher)
    reporter = Reporter(worker, metrics, progress, clock=lambda: now[0])
    said = []
    publisher.publish = said.append
    reporter.start(lambda _interval, _step: None)
    for lag_s in (0.0, 0.2, 0.0) + (0.0,) * 30:
        now[0] += 0.05 + lag_s
        reporter.step()
    lags = [event.hub_lag_ms for event in said[1:]]
    assert 200.0 in lags
    assert 2 <= len(lags) <= 3
    reporter.stop()
    assert said[-1] == Worker(state="down")
