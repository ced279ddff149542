import os
import threading
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduling_kit import PATIENCE_S, Rig

from webapp.config.settings import Settings
from webapp.domain.concurrency import NativeWaiter, allocate_lock, start_native_thread
from webapp.domain.errors import DeadlineExceededError, EngineFailedError, UnavailableError
from webapp.domain.types import Tuning
from webapp.engine.pool import NICE, EnginePool
from webapp.engine.runtimes.stub import StubEngine, StubSession, stub_logit
from webapp.scheduling.batching import MOST_READ_FIRST
from webapp.scheduling.scheduler import Scheduler
from webapp.scheduling.totals import Totals
from webapp.servers.assembly import build_service


class BrokenSession:
    """A stub session that does as a test tells it, once its thread runs."""

    def __init__(self, stub, score):
        self.encode_query = stub.encode_query
        self.encode_documents = stub.encode_documents
        self._stub, self._score, self._started = stub, score, False

    def score(self, pairs, length):
        if self._started:
            return self._score(self._stub, pairs, length)
        self._started = True  # the pool's own first score
        return self._stub.score(pairs, length)


class BrokenEngine(StubEngine):
    def __init__(self, score):
        self._score = score

    def open_session(self):
        return BrokenSession(super().open_session(), self._score)


def test_engine_threads_give_way_to_all_others():
    niceness = []

    def score(stub, pairs, length):
        niceness.append(os.getpriority(os.PRIO_PROCESS, 0))
        return stub.score(pairs, length)

    ours = os.getpriority(os.PRIO_PROCESS, 0)
    with Rig(BrokenEngine(score)) as rig:
        assert rig.score("query", ["document"]).succeeded
    assert niceness == [NICE]
    assert os.getpriority(os.PRIO_PROCESS, 0) == ours


documents = st.lists(st.text(max_size=60) | st.text(min_size=1, max_size=3).map(lambda part: part * 700), min_size=1)


@settings(max_examples=30, deadline=None)
@given(st.lists(documents, min_size=1, max_size=6), st.integers(1, 3), st.integers(16, 2048))
def test_every_pair_is_scored_once_in_its_own_request(requests, threads, budget_tokens):
    scored = []

    def score(stub, pairs, length):
        scored.append(len(pairs))
        return stub.score(pairs, length)

    with Rig(BrokenEngine(score), threads=threads, budget_tokens=budget_tokens) as rig:
        submitted = [rig.submit(f"query {number}", each) for number, each in enumerate(requests)]
        for (ticket, waiter), texts in zip(submitted, requests, strict=True):
            assert waiter.wait(PATIENCE_S), ticket
            assert ticket.error is None
            assert ticket.logits == pytest.approx([stub_logit(text) for text in texts], abs=2e-3)
    assert sum(scored) == sum(map(len, requests))


def test_an_engine_that_raises_fails_the_requests_concerned_and_goes_on():
    def score(stub, pairs, length):
        if any(query == "bad" for query, _ in pairs):
            raise RuntimeError("boom")
        return stub.score(pairs, length)

    with Rig(BrokenEngine(score)) as rig:
        bad = rig.score("bad", ["x"] * 50)
        assert isinstance(bad.error, EngineFailedError)
        assert str(bad.error.__cause__) == "boom"
        assert rig.score("good", ["x"] * 50).error is None


@pytest.mark.parametrize(
    "answer", [lambda n: np.full(n, np.nan, np.float32), lambda n: np.zeros(n + 1, np.float32)], ids=["NaN", "length"]
)
def test_a_wrong_answer_of_the_engine_is_an_error_never_a_score(answer):
    with Rig(BrokenEngine(lambda _stub, pairs, _length: answer(len(pairs)))) as rig:
        assert isinstance(rig.score("q", ["a", "b"]).error, EngineFailedError)


def test_a_cancelled_request_leaves_the_queue_and_its_pairs_are_not_scored():
    held, begun = threading.Event(), threading.Event()
    seen = []

    def score(stub, pairs, length):
        begun.set()
        held.wait(PATIENCE_S)
        seen.extend(query for query, _ in pairs)
        return stub.score(pairs, length)

    with Rig(BrokenEngine(score), threads=1, budget_tokens=16) as rig:
        _, first = rig.submit("first", ["x"])
        assert begun.wait(PATIENCE_S)
        ticket, waiter = rig.submit("late", ["y"] * 100)
        rig.scheduler.cancel(ticket, DeadlineExceededError("too late"))
        assert waiter.wait(0)
        held.set()
        assert first.wait(PATIENCE_S)
        assert rig.scheduler.queued_pairs == 0
    assert "late" not in seen


def test_a_request_cancelled_while_it_is_scored_keeps_its_error():
    held, begun = threading.Event(), threading.Event()

    def score(stub, pairs, length):
        begun.set()
        held.wait(PATIENCE_S)
        return stub.score(pairs, length)

    with Rig(BrokenEngine(score), threads=1) as rig:
        ticket, _ = rig.submit("q", ["x"])
        assert begun.wait(PATIENCE_S)
        rig.scheduler.cancel(ticket, DeadlineExceededError("too late"))
        held.set()
        assert rig.score("next", ["x"]).error is None
        assert isinstance(ticket.error, DeadlineExceededError)


def test_closing_fails_what_waits_and_refuses_what_comes():
    rig = Rig(StubEngine())  # its engine threads never start
    ticket, waiter = rig.submit("q", ["x"])
    rig.scheduler.close()
    assert waiter.wait(0)
    assert isinstance(ticket.error, UnavailableError)
    with pytest.raises(UnavailableError):
        rig.submit("q", ["x"])


def test_every_sessions_first_score_is_made_by_one_thread():
    """OpenVINO's binding deadlocks when two threads use it for the first time at once."""
    threads = []

    class Watched(StubEngine):
        def open_session(self):
            session = super().open_session()
            score = session.score
            session.score = lambda *pairs: (threads.append(threading.get_native_id()), score(*pairs))[1]
            return session

    with Rig(Watched(), threads=3):
        assert threads[:3] == [threading.get_native_id()] * 3


def test_requests_wait_for_engine_threads_that_start_later():
    rig = Rig(StubEngine())
    ticket, waiter = rig.submit("q", ["x"])
    with rig:
        assert waiter.wait(PATIENCE_S)
    assert ticket.error is None


@pytest.mark.parametrize("padded", [True, False])
def test_a_small_request_is_scored_soon_beside_a_large_one_while_others_keep_coming(padded):
    """Each request that comes could be read so that it joins the batch, for ever."""
    scheduler = Scheduler(lock=nullcontext(), budget_tokens=1024, threads=1, padded=padded)
    session = StubSession()
    scheduler.submit("large", ["x" * 60] * 3000, lambda: None)
    for _ in range(8):
        scheduler.step(session)
    small = scheduler.submit("small", ["x" * 60], lambda: None)
    steps = 0
    while not small.succeeded:
        scheduler.submit("another", ["x" * 60], lambda: None)
        scheduler.step(session)
        steps += 1
    assert steps <= 1 + MOST_READ_FIRST + 1 + 1, "it is read, three others are, the oldest has its turn, it is scored"


class DeviceRig(Rig):
    """Engine threads of which only a few may hold a batch."""

    def __init__(self, engine, *, most_batches, threads=4, budget_tokens=1024):
        self.scheduler = Scheduler(
            lock=allocate_lock(), budget_tokens=budget_tokens, threads=threads, padded=False, most_batches=most_batches
        )
        self.pool = EnginePool(engine, self.scheduler.step, threads=threads, start_thread=start_native_thread)


@settings(max_examples=30, deadline=None)
@given(st.lists(documents, min_size=1, max_size=6), st.integers(1, 2), st.integers(1, 4), st.integers(16, 2048))
def test_a_gpu_scores_every_pair_with_few_batches_in_hand(requests, most_batches, threads, budget_tokens):
    count, at_work, seen = threading.Lock(), [0], []

    def score(stub, pairs, length):
        with count:
            at_work[0] += 1
            seen.append(at_work[0])
        try:
            return stub.score(pairs, length)
        finally:
            with count:
                at_work[0] -= 1

    engine = BrokenEngine(score)
    with DeviceRig(engine, most_batches=most_batches, threads=threads, budget_tokens=budget_tokens) as rig:
        submitted = [rig.submit(f"query {number}", each) for number, each in enumerate(requests)]
        for (ticket, waiter), texts in zip(submitted, requests, strict=True):
            assert waiter.wait(PATIENCE_S), ticket
            assert ticket.logits == pytest.approx([stub_logit(text) for text in texts], abs=2e-3)
    assert max(seen) <= most_batches


@pytest.mark.parametrize(("engine", "tuned", "used"), [(0, 0, 0), (0, 1, 0), (2, 0, 2), (2, 1, 1), (2, 3, 2)])
def test_an_artifact_may_be_tuned_for_fewer_batches_than_its_engine_computes_at_once(engine, tuned, used):
    class Tuned(StubEngine):
        most_batches = engine
        info = replace(StubEngine.info, tuning=Tuning(batches_at_once=tuned))

    _, scheduler, _ = build_service(Settings(engine="stub"), Tuned(), NativeWaiter)
    assert scheduler.most_batches == used


def test_a_gpu_that_fails_frees_its_place():
    def score(stub, pairs, length):
        if any(query == "bad" for query, _ in pairs):
            raise RuntimeError("boom")
        return stub.score(pairs, length)

    with DeviceRig(BrokenEngine(score), most_batches=1) as rig:
        for _ in range(3):
            assert isinstance(rig.score("bad", ["x"] * 50).error, EngineFailedError)
            assert rig.score("good", ["x"] * 50).error is None
    assert rig.scheduler.totals.batches_at_work == 0


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class TimedSession(StubSession):
    """Tokenising takes 2 s, scoring 5 s. Looks at the totals in the middle."""

    def __init__(self, clock):
        self.clock, self.halfway = clock, []

    def encode_documents(self, query, documents):
        self.clock.now += 2
        return super().encode_documents(query, documents)

    def score(self, pairs, length):
        self.clock.now += 4
        totals = self.scheduler.totals
        self.halfway.append((totals.scoring_s, totals.device_busy_s))
        self.clock.now += 1
        if pairs[0][0] == "bad":
            raise RuntimeError("boom")
        return super().score(pairs, length)


def seconds(totals):
    return totals.tokenising_s, totals.scoring_s, totals.waiting_s, totals.device_busy_s


@pytest.mark.parametrize("query", ["good", "bad"])
@pytest.mark.parametrize("most_batches", [0, 1])
def test_the_seconds_of_every_engine_are_counted_up_to_the_moment(query, most_batches):
    clock = Clock()
    session = TimedSession(clock)
    session.scheduler = scheduler = Scheduler(
        lock=nullcontext(), budget_tokens=1024, threads=2, padded=False, most_batches=most_batches, clock=clock
    )
    clock.now += 50
    assert seconds(scheduler.totals) == (0, 0, 0, 0), "no engine thread has begun"
    scheduler.submit(query, ["text"], lambda: None)
    scheduler.step(session)
    assert seconds(scheduler.totals) == (2, 0, 2, 0), "the other thread waits"
    clock.now += 3
    scheduler.step(session)
    assert session.halfway == [(4, 4)]
    assert seconds(scheduler.totals) == (2, 5, 2 + 6 + 5, 5)
    clock.now += 10
    assert seconds(scheduler.totals) == (2, 5, 13 + 20, 5)


def test_a_device_is_busy_once_however_many_batches_are_in_hand():
    totals = Totals(threads=3)
    totals.change(0.0, batches=1)
    totals.change(2.0, batches=1)
    totals.change(3.0, chunks=1)
    totals.change(5.0, batches=-1)
    totals.change(6.0, batches=-1)
    totals.change(9.0, chunks=-1)
    assert seconds(totals) == (6, 2 + 2 + 4 + 1, 4 + 1 + 0 + 1 + 6, 6)


def test_many_sizes_of_large_batches_are_few_sizes_in_the_totals():
    totals = Totals()
    for rows in range(1, 4097):
        totals.add_batch(rows, rows * 16, 4096)
    assert totals.pairs == sum(range(1, 4097))
    assert len(totals.sizes) < 520
    counted = sum(rows * count for (rows, _), count in totals.sizes.items())
    assert counted == pytest.approx(totals.pairs, rel=1e-3)
