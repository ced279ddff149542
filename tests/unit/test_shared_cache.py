import time

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduling_kit import PATIENCE_S, Rig

from webapp.config import resources
from webapp.config.settings import Settings
from webapp.domain.types import RerankRequest
from webapp.engine.runtimes.stub import StubEngine, stub_logit
from webapp.scheduling.breaker import FAILURES, Breaker
from webapp.servers.assembly import build_service
from webapp.servers.gunicorn.bridge import GeventBridge, GeventWaiter
from webapp.service.cache import redis as redis_module
from webapp.service.cache.memory import LookupBudget, MemoryCache, PairScore
from webapp.service.cache.redis import MOST_WAITING, NonsenseError, SharedCache, name_of, pack, unpack
from webapp.service.inflight import CallOptions, InflightScores

SCORE = PairScore(1.5, truncated=True, tokens=7)


class FakeRedis:
    """Keeps bytes; answers late, or fails, as told."""

    def __init__(self):
        self.values = {}
        self.delay_s = 0.0
        self.fails = False
        self.full = False
        self.asked = []
        self.answered = 0

    def ping(self):
        self._answer()

    def get_many(self, keys):
        self.asked.append(len(keys))
        self._answer()
        scores = {key: unpack(key, self.values.get(name_of(key))) for key in keys}
        return {key: score for key, score in scores.items() if score is not None}

    def set_many(self, entries):
        self._answer()
        if self.full:
            raise OSError("full")
        self.values |= {name_of(key): pack(key, score) for key, score in entries}

    def _answer(self):
        gevent.sleep(self.delay_s)
        self.answered += 1
        if self.fails:
            raise ConnectionError("gone")


@pytest.fixture
def redis():
    return FakeRedis()


@pytest.fixture
def shared(redis):
    cache = SharedCache(redis, GeventBridge())
    cache.start()
    return cache


def settle():
    gevent.sleep(0.01)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.booleans(), st.integers(0, 2**32 - 1))
def test_a_score_is_a_few_bytes_and_comes_back_as_it_was(logit, truncated, tokens):
    value = pack(b"key", PairScore(logit, truncated, tokens))
    assert len(value) == 14
    assert unpack(b"key", value) == PairScore(logit, truncated, tokens)


def test_what_is_not_there_is_no_score():
    assert unpack(b"key", None) is None


OTHERS = [b"", b"no score", 7, 1.5, True, "text", [], [pack(b"key", SCORE)], {}, OSError("said by Redis")]
DAMAGED = [
    pack(b"another key", SCORE),
    pack(b"key", SCORE)[:-1],
    pack(b"key", SCORE) + b"0",
    pack(b"key", SCORE._replace(logit=float("nan"))),
    *[bytes(byte ^ (place == at) for at, byte in enumerate(pack(b"key", SCORE))) for place in range(14)],
]


@pytest.mark.parametrize("value", [*OTHERS, *DAMAGED])
def test_what_is_no_score_of_this_pair_is_refused(value):
    with pytest.raises(NonsenseError):
        unpack(b"key", value)


@given(st.binary(max_size=20))
def test_any_bytes_are_refused(value):
    with pytest.raises(NonsenseError):
        unpack(b"key", value)


def test_what_was_kept_is_found(shared):
    shared.put_many({b"a": SCORE})
    settle()
    assert shared.get_many([b"a", b"b"], LookupBudget()) == {b"a": SCORE}


def test_a_write_does_not_keep_its_caller_waiting(shared, redis):
    redis.delay_s = 0.05
    shared.put_many({b"a": SCORE})
    assert redis.values == {}
    while not redis.values:
        gevent.sleep(0.01)
    assert redis.values == {name_of(b"a"): pack(b"a", SCORE)}


def test_a_slow_redis_costs_one_call_its_budget_however_many_lookups_it_has(shared, redis):
    redis.delay_s = 3600
    answered = redis.answered
    budget = LookupBudget(0.01)
    for _ in range(10):
        assert shared.get_many([b"a"], budget) == {}
    assert redis.asked == [1]
    assert redis.answered == answered, "nobody waited for its answer"


def test_a_redis_that_fails_is_left_alone_and_tried_again(redis):
    now = [100.0]
    told = []
    reads = Breaker(lambda old, new: told.append((old, new)))
    shared = SharedCache(redis, GeventBridge(), reads=reads, clock=lambda: now[0])
    shared.start()
    redis.fails = True
    for _ in range(FAILURES + 5):
        assert shared.get_many([b"a"], LookupBudget(1)) == {}
    assert len(redis.asked) == FAILURES
    redis.fails = False
    now[0] += 1.5
    shared.get_many([b"a"], LookupBudget(1))
    assert told == [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]


def test_a_full_redis_is_still_read(shared, redis):
    redis.values[name_of(b"a")] = pack(b"a", SCORE)
    redis.full = True
    for number in range(FAILURES + 1):
        shared.put_many({b"%d" % number: SCORE})
        settle()
    assert list(redis.values) == [name_of(b"a")]
    assert redis.answered == 1 + FAILURES, "the last write was not tried"
    assert shared.get_many([b"a"], LookupBudget(1)) == {b"a": SCORE}


def test_a_redis_that_is_not_there_at_the_start_is_found_later(redis):
    redis.fails = True
    shared = SharedCache(redis, GeventBridge())
    assert shared.get_many([b"a"], LookupBudget(1)) == {}
    shared.start()
    redis.fails = False
    shared.put_many({b"a": SCORE})
    settle()
    assert shared.get_many([b"a"], LookupBudget(1)) == {b"a": SCORE}


def test_many_pairs_are_asked_for_in_parts(shared, redis, monkeypatch):
    monkeypatch.setattr(redis_module, "KEYS_AT_ONCE", 2)
    redis.values = {name_of(key): pack(key, SCORE) for key in map(b"%d".__mod__, range(5))}
    assert len(shared.get_many([b"%d" % number for number in range(5)], LookupBudget(1))) == 5
    assert redis.asked == [2, 2, 1]


def test_what_waits_to_be_written_is_bounded(shared, redis):
    redis.delay_s = 0.05
    shared.put_many({b"%d" % number: SCORE for number in range(MOST_WAITING + 3)})
    assert len(shared._waiting) == MOST_WAITING


def scoring_on(rig, shared, artifact="a"):
    return InflightScores(
        scheduler=rig.scheduler, cache=MemoryCache(10**6), shared=shared, artifact=artifact, make_waiter=GeventWaiter
    )


def score(scoring, documents):
    request = RerankRequest(query="q", documents=documents, originals=documents)
    options = CallOptions(time.monotonic() + PATIENCE_S, lookups=LookupBudget(1))
    return scoring.finish(scoring.begin(request, options))


def test_two_workers_share_scores_and_what_came_from_there_is_then_in_memory(shared, redis, stub_rig):
    one, other = scoring_on(stub_rig, shared), scoring_on(stub_rig, shared)
    score(one, ["a", "b"])
    settle()
    scored = score(other, ["b", "a", "c"])
    assert scored.cached == 2
    assert scored.logits.tolist() == pytest.approx([stub_logit(document) for document in "bac"], abs=2e-3)
    asked = len(redis.asked)
    assert score(other, ["a", "b"]).cached == 2
    assert len(redis.asked) == asked


def test_two_artifacts_never_share(shared, stub_rig):
    score(scoring_on(stub_rig, shared, "one"), ["a"])
    settle()
    assert score(scoring_on(stub_rig, shared, "other"), ["a"]).cached == 0


AVX2, VNNI = "flags : fpu avx2 fma", "flags : fpu avx2 fma avx512f avx512_vnni"


@pytest.mark.parametrize(("one", "other", "cached"), [(AVX2, VNNI, 0), (VNNI, f"{VNNI} hypervisor", 1)])
def test_machines_share_scores_if_their_processors_add_in_the_same_order(
    shared, monkeypatch, tmp_path, one, other, cached
):
    monkeypatch.setattr(resources, "_PROC", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 4096 kB\n")
    found = []
    for flags in (one, other):
        (tmp_path / "cpuinfo").write_text(flags)
        service, scheduler, pool = build_service(
            Settings(engine="stub"), StubEngine(), GeventWaiter, cache=MemoryCache(10**6), shared=shared
        )
        pool.start()
        found.append(score(service.scoring, ["a"]).cached)
        scheduler.close()
        settle()
    assert found == [0, cached]


def test_a_pair_is_still_scored_once_while_requests_wait_for_redis(shared, redis):
    with Rig(StubEngine()) as rig:
        scoring = scoring_on(rig, shared)
        redis.delay_s = 0.02
        together = [gevent.spawn(score, scoring, ["a", "b"]) for _ in range(5)]
        for each in together:
            assert each.get(timeout=PATIENCE_S).logits.tolist() == pytest.approx(
                [stub_logit("a"), stub_logit("b")], abs=2e-3
            )
        assert rig.scheduler.totals.pairs == 2
        assert scoring._inflight == {}


def test_pairs_that_another_request_is_scoring_are_not_asked_for(shared, redis):
    rig = Rig(StubEngine())  # nobody scores
    scoring = scoring_on(rig, shared)
    first = scoring.begin(RerankRequest(query="q", documents=["a"], originals=["a"]))
    second = scoring.begin(RerankRequest(query="q", documents=["a"], originals=["a"]))
    assert redis.asked == [1]
    assert second.borrowed == [first.own]
