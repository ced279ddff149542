import threading
import time

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduling_kit import PATIENCE_S, Rig

from webapp.domain.errors import DeadlineExceededError, EngineFailedError
from webapp.domain.types import RerankRequest
from webapp.engine.runtimes.stub import StubEngine, StubSession, stub_logit
from webapp.servers.gunicorn.bridge import GeventWaiter
from webapp.service.cache.keys import pair_keys
from webapp.service.cache.memory import ENTRY_BYTES, MemoryCache, PairScore
from webapp.service.inflight import CallOptions, InflightScores


class CountingEngine(StubEngine):
    """Counts the pairs it scores; holds every score back while `gate` is closed."""

    def __init__(self):
        self.scored = []
        self.gate = threading.Event()
        self.gate.set()
        self.fails = False

    def open_session(self):
        engine = self

        class Session(StubSession):
            def score(self, pairs, length):
                if pairs[0][0] != "query":  # the pool's own first score
                    assert engine.gate.wait(PATIENCE_S)
                    if engine.fails:
                        raise RuntimeError("boom")
                    engine.scored += [query for query, _ in pairs]
                return super().score(pairs, length)

        return Session()


@pytest.fixture
def engine():
    return CountingEngine()


@pytest.fixture
def scoring(engine):
    with Rig(engine) as rig:
        yield InflightScores(scheduler=rig.scheduler, cache=MemoryCache(10**6), artifact="a", make_waiter=GeventWaiter)


def request(documents, query="q"):
    return RerankRequest(query=query, documents=documents, originals=documents)


def score(scoring, documents, *, query="q", timeout_s=PATIENCE_S):
    return scoring.finish(scoring.begin(request(documents, query), CallOptions(time.monotonic() + timeout_s)))


def expected(documents):
    return pytest.approx([stub_logit(document) for document in documents], abs=2e-3)


def test_a_pair_that_was_scored_before_is_not_scored_again(scoring, engine):
    first = score(scoring, ["a", "b"])
    second = score(scoring, ["b", "c", "a"])
    assert (first.cached, second.cached) == (0, 2)
    assert second.logits == expected(["b", "c", "a"])
    assert len(engine.scored) == 3
    assert score(scoring, ["a"]).tokens == first.tokens // 2, "tokens are told for known pairs too"


def test_equal_documents_of_a_request_are_scored_once(scoring, engine):
    assert score(scoring, ["a", "b", "a", "a"]).logits == expected(["a", "b", "a", "a"])
    assert len(engine.scored) == 2


def test_another_query_is_another_pair(scoring, engine):
    score(scoring, ["a"], query="q")
    score(scoring, ["a"], query="r")
    assert engine.scored == ["q", "r"]


def test_pairs_that_another_request_is_scoring_are_waited_for(scoring, engine):
    engine.gate.clear()
    first = gevent.spawn(score, scoring, ["a", "b"])
    second = gevent.spawn(score, scoring, ["b", "c"])
    gevent.sleep(0)
    engine.gate.set()
    assert first.get(timeout=PATIENCE_S).logits == expected(["a", "b"])
    assert second.get(timeout=PATIENCE_S).logits == expected(["b", "c"])
    assert len(engine.scored) == 3


def test_a_request_that_gives_up_ends_no_other(scoring, engine):
    engine.gate.clear()
    hasty = gevent.spawn(score, scoring, ["a", "b"], timeout_s=0.05)
    patient = gevent.spawn(score, scoring, ["b", "a"])
    assert isinstance(hasty.get(timeout=PATIENCE_S), DeadlineExceededError)
    engine.gate.set()
    assert patient.get(timeout=PATIENCE_S).logits == expected(["b", "a"])
    assert scoring._inflight == {}


def test_a_killed_request_leaves_the_queue(scoring, engine):
    engine.gate.clear()
    killed = gevent.spawn(score, scoring, ["a"] * 3 + ["b"])
    gevent.sleep(0)
    killed.kill()
    assert scoring._inflight == {}
    assert scoring._scheduler.queued_pairs == 0
    engine.gate.set()


def test_failures_are_told_to_all_concerned_and_never_kept(scoring, engine):
    engine.fails = True
    outcomes = [gevent.spawn(score, scoring, ["a"]) for _ in range(2)]
    assert [type(each.get(timeout=PATIENCE_S)) for each in outcomes] == [EngineFailedError] * 2
    engine.fails = False
    assert score(scoring, ["a"]).logits == expected(["a"])


def test_without_a_cache_every_pair_is_scored(engine):
    with Rig(engine) as rig:
        scoring = InflightScores(scheduler=rig.scheduler, cache=None, artifact="a", make_waiter=GeventWaiter)
        for _ in range(2):
            assert score(scoring, ["a", "a"]).logits == expected(["a", "a"])
        assert len(engine.scored) == 4


def test_the_longest_unused_scores_make_room():
    cache = MemoryCache(3 * ENTRY_BYTES)
    entry = PairScore(1.0, truncated=False, tokens=3)
    cache.put_many({b"a": entry, b"b": entry, b"c": entry})
    cache.get_many([b"a"])
    cache.put_many({b"d": entry})
    assert set(cache.get_many([b"a", b"b", b"c", b"d"])) == {b"a", b"c", b"d"}
    assert cache.bytes <= 3 * ENTRY_BYTES
    assert (cache.hits, cache.misses) == (4, 1)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.tuples(texts, texts, texts, texts), st.tuples(texts, texts, texts, texts))
def test_different_pairs_have_different_keys(left, right):
    keys = [pair_keys(artifact, query, [document], asked)[0] for artifact, query, document, asked in (left, right)]
    assert (keys[0] == keys[1]) == (left == right)


def test_keys_are_the_same_in_every_process():
    assert pair_keys("artifact", "query", ["document"])[0].hex() == "031b43f5aaf372878d191e3cd7267e46"
