"""Whatever Redis answers is a score of the pair that was asked for, or a failed look-up that the breaker counts."""

import itertools
import tracemalloc

import gevent
import pytest
import redis
from app_kit import create_app
from redis_kit import NONSENSE, FakeRedis
from running import wait_for
from scheduling_kit import PATIENCE_S

from webapp.domain.errors import RateLimitedError
from webapp.scheduling.breaker import FAILURES, Breaker
from webapp.servers.gunicorn.bridge import GeventBridge
from webapp.service.cache.memory import LookupBudget, PairScore
from webapp.service.cache.redis import NonsenseError, RedisStore, SharedCache, name_of, pack
from webapp.service.rate_limit import CountsInRedis, Quota

A, B = b"a" * 16, b"b" * 16
SOON_S = 0.05
"""How long an answer that never comes whole is awaited."""

SCORES = {A: PairScore(1.5, truncated=False, tokens=3), B: PairScore(-2.5, truncated=True, tokens=9)}


@pytest.fixture(autouse=True)
def _all_connections_are_closed(monkeypatch):
    made, pools = redis.ConnectionPool.from_url, []

    def remembered(*arguments, **options):
        pools.append(made(*arguments, **options))
        return pools[-1]

    monkeypatch.setattr(redis.ConnectionPool, "from_url", remembered)
    yield
    for pool in pools:
        pool.disconnect()


def bulk(value):
    return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)


def right(command):
    """Return the answer of a Redis that has both scores."""
    if command[0] == b"PING":
        return b"+PONG\r\n"
    if command[0] == b"SET":
        return b"+OK\r\n"
    values = {name_of(key): pack(key, score) for key, score in SCORES.items()}
    return b"*%d\r\n" % (len(command) - 1) + b"".join(bulk(values.get(name)) for name in command[1:])


@pytest.fixture(params=NONSENSE.values(), ids=NONSENSE)
def nonsense(request, monkeypatch):
    """A Redis that answers one thing, whatever it is asked."""
    monkeypatch.setattr("webapp.service.cache.redis.ANSWER_S", SOON_S)
    with FakeRedis(lambda _number, _command: request.param) as fake:
        yield fake


@pytest.mark.parametrize("ask", ["ping", "get", "set"])
def test_nonsense_is_a_failure_and_its_connection_is_not_used_again(nonsense, ask):
    store = RedisStore(nonsense.url)
    asks = {
        "ping": store.ping,
        "get": lambda: store.get_many([A, B]),
        "set": lambda: store.set_many(list(SCORES.items())),
    }
    for _ in range(2):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - each kind has its own
            asks[ask]()
    refused = (
        ask == "set" and type(caught.value) is redis.ResponseError
    )  # it refused a command: the connection is all right
    expected = {1} if refused else {1, 2}
    wait_for(lambda: {number for number, _ in nonsense.asked} == expected, "each connection's question")


def test_an_answer_to_another_question_is_a_failure_and_never_another_pairs_score():
    """Every answer comes one question late."""
    late = {}

    def answer(number, command):
        late[number], now = right(command), late.get(number, b"")
        return now or b"*1\r\n$-1\r\n"

    with FakeRedis(answer) as fake:
        store = RedisStore(fake.url)
        assert store.get_many([A]) == {}
        with pytest.raises(NonsenseError):
            store.get_many([B])
        assert store.get_many([B]) == {}, "on a new connection"
        assert store.get_many([B]) == {B: SCORES[B]}


def test_data_after_an_answer_is_no_answer_to_the_next_question():
    with FakeRedis(lambda _number, command: right(command) + right([b"MGET", name_of(A)])) as fake:
        store = RedisStore(fake.url)
        for _ in range(3):
            try:
                found = store.get_many([B])
            except NonsenseError:
                continue
            assert found == {B: SCORES[B]}


def shared_on(store, reads, writes=None):
    shared = SharedCache(store, GeventBridge(), reads=reads, writes=writes or Breaker())
    shared.start()
    return shared


def test_the_breaker_counts_nonsense(nonsense):
    reads, writes = Breaker(), Breaker()
    shared = shared_on(RedisStore(nonsense.url), reads, writes)
    for _ in range(FAILURES):
        assert shared.get_many([A, B], LookupBudget(PATIENCE_S)) == {}
        shared.put_many(SCORES)
        gevent.sleep(0)
        gevent.sleep(0)
    assert (reads.state, writes.state) == ("open", "open")


def test_no_request_fails_for_nonsense_and_none_gets_another_score(service, nonsense):
    from webapp.service.cache.memory import MemoryCache

    service.scoring.cache = MemoryCache(10**6)
    service.scoring.shared = shared_on(RedisStore(nonsense.url), Breaker())
    quota = Quota(requests_per_minute=1000, shared=CountsInRedis(nonsense.url, wait_s=SOON_S))
    client = create_app(service, request_timeout_s=30, max_body_bytes=1000, limits={}, quota=quota).test_client()
    for number in range(FAILURES + 2):
        body = {"query": f"q{number}", "documents": ["one", "three words here"], "top_k": 0}
        reply = client.post("/rerank", json=body)
        assert reply.status_code == 200
        assert sorted(result["index"] for result in reply.json["results"]) == [0, 1]


@pytest.mark.parametrize("piece", [b":1\r\n" * 10_000, b"a" * 50_000], ids=["of a list", "of a line"])
def test_an_answer_that_never_ends_is_given_up(piece):
    endless = itertools.chain([b"*1000000000\r\n+"], itertools.repeat(piece))
    with FakeRedis(lambda _number, _command: endless) as fake, pytest.raises(redis.InvalidResponse):
        RedisStore(fake.url).get_many([A])


def test_no_memory_is_taken_for_what_redis_only_promises(monkeypatch):
    monkeypatch.setattr("webapp.service.cache.redis.ANSWER_S", SOON_S)
    with FakeRedis(lambda _number, _command: NONSENSE["a list of a billion"]) as fake:
        tracemalloc.start()
        try:
            with pytest.raises(redis.TimeoutError):
                RedisStore(fake.url).get_many([A])
            assert tracemalloc.get_traced_memory()[1] < 10**7
        finally:
            tracemalloc.stop()


@pytest.fixture
def silent():
    """A Redis that says the beginning of an answer, and then nothing more."""
    with FakeRedis(lambda _number, _command: b"*2\r\n$14\r\nabc") as fake:
        yield fake


def test_a_hang_in_the_middle_of_an_answer_ends_the_connection(silent, monkeypatch):
    monkeypatch.setattr("webapp.service.cache.redis.ANSWER_S", 0.02)
    monkeypatch.setattr("redis_kit.NONSENSE", {"half an answer, then the end": None})  # it does not end
    store = RedisStore(silent.url)
    for _ in range(2):
        with pytest.raises(Exception, match="Timeout"):
            store.get_many([A, B])
    assert {number for number, _ in silent.asked} == {1, 2}


def test_an_answer_in_crumbs_is_given_up(monkeypatch):
    class Crumbs:
        """A store whose answer never ends although something comes all the time."""

        def ping(self):
            pass

        def get_many(self, _keys):
            while True:
                gevent.sleep(0.001)

    monkeypatch.setattr("webapp.service.cache.redis.WHOLE_ANSWER_S", SOON_S)
    shared = shared_on(Crumbs(), Breaker())
    assert shared.get_many([A], LookupBudget(0.001)) == {}
    assert shared._looking == 1
    with gevent.Timeout(PATIENCE_S):
        while shared._looking:
            gevent.sleep(0.01)


def quota_on(fake, limit, wait_s=PATIENCE_S):
    return Quota(requests_per_minute=limit, shared=CountsInRedis(fake.url, wait_s=wait_s), clock=lambda: 0.0)


def let_in(quota, times, account="a"):
    """How many of so many requests are let in."""
    count = 0
    for _ in range(times):
        try:
            quota.take("requests", account)
        except RateLimitedError:
            continue
        count += 1
    return count


def test_where_redis_counts_nonsense_this_worker_counts_by_itself(nonsense):
    assert let_in(quota_on(nonsense, 3, SOON_S), 5) == 3
    assert len(nonsense.asked) <= 2, "a decision, and why; then it is left alone"


WINDOWS = {
    "no numbers": [b"x", 1, b"y", 1],
    "negative": [b"-3", 1, b"0", 1],
    "endless": [b"9" * 400, 1, b"0", 1],
    "as floats": [b"inf", 1, b"nan", 1],
    "too long": [b"1", 86_400_000, b"1", 1],
    "nothing in the way": [None, -2, b"0", 5],
    "texts as times": [b"1", b"1", b"1", b"1"],
    "five": [b"1", 1, b"1", 1, 1],
}


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_an_impossible_refusal_by_redis_is_not_believed(window):
    def wire(value):
        return b":%d\r\n" % value if isinstance(value, int) else bulk(value)

    answers = itertools.cycle([b"$-1\r\n", b"*%d\r\n" % len(window) + b"".join(map(wire, window))])
    with FakeRedis(lambda _number, _command: next(answers)) as fake:
        assert let_in(quota_on(fake, 3), 5) == 3


def test_a_decision_about_another_account_refuses_nobody():
    """Every answer comes one question late: yes for the first, then no for an account that asked too much."""
    decisions = [b":1\r\n", b"$-1\r\n", b":1\r\n", b":1\r\n"]
    with FakeRedis(lambda _number, _command: decisions.pop(0)) as fake:
        quota = quota_on(fake, 1)
        assert let_in(quota, 1, "greedy") == 1
        assert let_in(quota, 1, "modest") == 1
        with pytest.raises(RateLimitedError):  # what it asked of this worker alone
            quota.take("requests", "modest")
