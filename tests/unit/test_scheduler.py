import os
import threading
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduling_kit import PATIENCE_S, Rig

from webapp.domain.errors import DeadlineExceededError, EngineFailedError, UnavailableError
from webapp.engine.pool import NICE
from webapp.engine.runtimes.stub import StubEngine, StubSession, stub_logit
from webapp.scheduling.batching import MOST_READ_FIRST
from webapp.scheduling.scheduler import Scheduler


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
