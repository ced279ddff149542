"""A deadline holds in the queue, between batches and at the reply; no work is done for a caller that hung up."""

import socket
import threading
import time

import gevent
import pytest
from app_kit import create_app
from scheduling_kit import PATIENCE_S, Rig

from webapp.domain.concurrency import NativeWaiter, allocate_lock
from webapp.domain.errors import CancelledError, DeadlineExceededError
from webapp.domain.types import RerankRequest
from webapp.engine.runtimes.stub import StubEngine, StubSession
from webapp.scheduling.scheduler import Scheduler
from webapp.servers.gunicorn.bridge import GeventWaiter, HangUpWatch, hung_up
from webapp.service.inflight import CallOptions, InflightScores


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Held(StubEngine):
    """Holds each batch back while `gate` is closed; remembers what it scored."""

    def __init__(self):
        self.scored = []
        self.gate = threading.Event()
        self.begun = threading.Event()

    def open_session(self):
        engine = self

        class Session(StubSession):
            def score(self, pairs, length):
                if pairs[0][0] != "query":  # the pool's own first score
                    engine.begun.set()
                    assert engine.gate.wait(PATIENCE_S)
                    engine.scored += [query for query, _ in pairs]
                return super().score(pairs, length)

        return Session()


@pytest.fixture
def engine():
    return Held()


@pytest.fixture
def rig(engine):
    with Rig(engine, threads=1, budget_tokens=16) as rig:
        yield rig
        engine.gate.set()


@pytest.fixture
def caller():
    """Both ends of a caller's connection; ours is watched."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield lambda: HangUpWatch(ours), theirs


@pytest.fixture
def scoring(rig):
    return InflightScores(scheduler=rig.scheduler, cache=None, artifact="a", make_waiter=GeventWaiter)


@pytest.fixture
def sharing(rig):
    """With a cache, so that requests wait for each other's pairs."""
    from webapp.service.cache.memory import MemoryCache

    return InflightScores(scheduler=rig.scheduler, cache=MemoryCache(10**6), artifact="a", make_waiter=GeventWaiter)


def request(documents, query="q"):
    return RerankRequest(query=query, documents=documents, originals=documents)


def test_a_late_request_leaves_the_queue_before_its_pairs_are_scored():
    clock, waiter = Clock(), NativeWaiter()
    scheduler = Scheduler(lock=allocate_lock(), budget_tokens=16, threads=1, clock=clock)
    late = scheduler.submit("late", ["x"] * 10, waiter.wake, deadline=5.0)
    other = scheduler.submit("other", ["x"], lambda: None, deadline=50.0)
    clock.now = 5.0
    session = Held()
    session.gate.set()
    while scheduler.queued_pairs:
        assert scheduler.step(session.open_session())
    assert isinstance(late.error, DeadlineExceededError)
    assert waiter.wait(0)
    assert other.succeeded
    assert session.scored == ["other"]


def test_a_request_that_expires_between_two_batches_says_how_far_it_came():
    clock = Clock()
    scheduler = Scheduler(lock=allocate_lock(), budget_tokens=32, threads=1, clock=clock)
    scoring = InflightScores(scheduler=scheduler, cache=None, artifact="a", make_waiter=GeventWaiter, clock=clock)
    pending = scoring.begin(request(["x"] * 10), CallOptions(deadline=5.0))
    for _ in range(3):  # tokenise, a batch of two, a batch of two
        assert scheduler.step(StubSession())
    clock.now = 5.0
    error = scoring.finish(pending)
    assert isinstance(error, DeadlineExceededError)
    assert error.figures == {"scored": 4, "total": 10}
    assert (scheduler.queued_pairs, scheduler.queued_tokens) == (0, 0)


def test_a_request_whose_caller_hung_up_leaves_the_queue_within_a_batch(scoring, engine, rig, caller):
    watch, theirs = caller
    documents = ["x" * 60] * 100  # each as long as a batch may be
    waiting = gevent.spawn(lambda: scoring.finish(scoring.begin(request(documents), CallOptions(1e9, watch=watch))))
    gevent.sleep(0)
    assert engine.begun.wait(PATIENCE_S)
    theirs.close()
    assert isinstance(waiting.get(timeout=PATIENCE_S), CancelledError)
    assert (rig.scheduler.queued_pairs, rig.scheduler.queued_tokens) == (0, 0)
    engine.gate.set()
    assert rig.score("next", ["x"]).succeeded
    assert engine.scored == ["q", "next"], "one pair was in the engine's hands"


def test_a_caller_who_sends_more_while_it_waits_stays(scoring, engine, caller):
    watch, theirs = caller
    watched = threading.Event()

    def noted():
        watched.set()
        return watch()

    waiting = gevent.spawn(lambda: scoring.finish(scoring.begin(request(["x"] * 100), CallOptions(1e9, watch=noted))))
    while not watched.is_set():
        gevent.sleep(0)
    theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")  # a pipelined request is no goodbye
    gevent.sleep(0)
    assert not waiting.ready()
    engine.gate.set()
    assert len(waiting.get(timeout=PATIENCE_S).logits) == 100


def test_pairs_stay_while_another_request_wants_them(sharing, engine, rig, caller):
    watch, theirs = caller
    hasty = gevent.spawn(lambda: sharing.finish(sharing.begin(request(["x", "y"]), CallOptions(1e9, watch=watch))))
    gevent.sleep(0)
    patient = gevent.spawn(lambda: sharing.finish(sharing.begin(request(["x", "y"]), CallOptions(1e9))))
    gevent.sleep(0)
    theirs.close()
    assert isinstance(hasty.get(timeout=PATIENCE_S), CancelledError)
    assert rig.scheduler.queued_pairs == 2
    engine.gate.set()
    assert len(patient.get(timeout=PATIENCE_S).logits) == 2
    assert engine.scored == ["q", "q"]


def test_a_shared_pair_is_scored_within_the_longer_of_two_deadlines(sharing, engine, rig):
    soon = time.monotonic() + 0.05
    hasty = gevent.spawn(lambda: sharing.finish(sharing.begin(request(["x", "y"]), CallOptions(soon))))
    gevent.sleep(0)
    patient = gevent.spawn(lambda: sharing.finish(sharing.begin(request(["x", "y"]), CallOptions(1e9))))
    gevent.sleep(0)
    assert isinstance(hasty.get(timeout=PATIENCE_S), DeadlineExceededError)
    engine.gate.set()
    assert len(patient.get(timeout=PATIENCE_S).logits) == 2
    assert engine.scored == ["q", "q"]
    assert rig.scheduler.queued_pairs == 0


def test_a_request_of_many_parts_leaves_nothing_behind_when_its_caller_hangs_up(service, caller):
    watch, theirs = caller
    theirs.close()
    requests = [request(["x"] * 5, query=str(number)) for number in range(20)]
    slow = Rig(StubEngine())  # its engine threads never start
    service.scoring = InflightScores(scheduler=slow.scheduler, cache=None, artifact="a", make_waiter=GeventWaiter)
    with pytest.raises(CancelledError):
        service.rerank_many(requests, CallOptions(1e9, watch=watch))
    assert slow.scheduler.queued_pairs == 0
    assert service.ongoing == 0


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon", "", "1e999"])
def test_a_wrong_timeout_is_named(client, value):
    reply = client.post("/rerank", json={"query": "q", "documents": ["x"]}, headers={"X-Request-Timeout": value})
    assert reply.status_code == 400
    assert "X-Request-Timeout" in reply.json["message"]


def test_a_caller_may_ask_for_less_time_and_is_told_what_was_done(service):
    slow = Rig(StubEngine())  # its engine threads never start
    service.scoring = InflightScores(scheduler=slow.scheduler, cache=None, artifact="a", make_waiter=GeventWaiter)
    client = create_app(service, request_timeout_s=30, max_body_bytes=1000, limits={}).test_client()
    reply = client.post(
        "/rerank", json={"query": "q", "documents": [{"content": "x"}] * 3}, headers={"X-Request-Timeout": "0.05"}
    )
    assert reply.status_code == 504
    assert (reply.json["error"]["scored"], reply.json["error"]["total"]) == (0, 3)
    others = client.post("/rerank", json={"query": "q", "documents": ["x"]}, headers={"X-Request-Timeout": ".05"})
    assert (others.status_code, others.json["total"]) == (429, 1)


def test_no_caller_gets_more_time_than_the_service_allows(service):
    client = create_app(service, request_timeout_s=-1, max_body_bytes=1000, limits={}).test_client()
    reply = client.post("/rerank", json={"query": "q", "documents": ["x"]}, headers={"X-Request-Timeout": "1000"})
    assert reply.status_code == 429


def test_a_reply_after_the_deadline_is_an_error(service, monkeypatch):
    times = iter([0.0, 2e12])  # begun, and done
    monkeypatch.setattr(service, "_clock", lambda: next(times))
    with pytest.raises(DeadlineExceededError) as caught:
        service.rerank(request(["x", "y"]), CallOptions(1e12))
    assert caught.value.figures["total"] == 2


def test_a_closed_connection_is_known_and_a_pipelined_request_is_no_goodbye():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not hung_up(ours)
        theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert not hung_up(ours)
        ours.recv(100)
        theirs.close()
        assert hung_up(ours)


def test_a_sending_half_that_was_closed_counts_as_hung_up():
    """Nginx takes it for that, too."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.shutdown(socket.SHUT_WR)
        assert hung_up(ours)
