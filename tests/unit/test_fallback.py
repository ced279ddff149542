"""An engine that fails: the right error, then what the operator chose, then recovery by itself."""

import itertools
import threading

import pytest
from app_kit import create_app
from running import wait_for
from scheduling_kit import PATIENCE_S, Rig

from webapp.engine.runtimes.stub import StubEngine, StubSession
from webapp.scheduling.admission import Admission
from webapp.scheduling.breaker import FAILURES
from webapp.scheduling.scheduler import Watchdog
from webapp.servers.gunicorn.bridge import GeventWaiter
from webapp.service.cache.memory import MemoryCache
from webapp.service.fallback import EngineFallback, lexical_scores
from webapp.service.inflight import InflightScores
from webapp.service.reranker import RerankService

NATIVE = {"query": "bees", "documents": [{"content": "milk"}, {"content": "bees"}, {"content": "bees and milk"}]}
COHERE = {"query": "bees", "documents": ["milk", "bees", "bees and milk"]}
TEI = {"query": "bees", "texts": ["milk", "bees", "bees and milk"]}


class Failing(StubEngine):
    def __init__(self):
        self.fails = False

    def open_session(self):
        engine = self

        class Session(StubSession):
            def score(self, pairs, length):
                if engine.fails:
                    raise RuntimeError("boom")
                return super().score(pairs, length)

        return Session()


@pytest.fixture
def engine():
    return Failing()


@pytest.fixture
def api(engine, clock, request):
    """A client of a service on a failing engine; parameter: RERANK_DEGRADED."""
    changes = []
    with Rig(engine) as rig:
        cache = MemoryCache(10**6)
        service = RerankService(
            model=StubEngine.info,
            scoring=InflightScores(scheduler=rig.scheduler, cache=cache, artifact="a", make_waiter=GeventWaiter),
            admission=Admission(max_ongoing_requests=10),
            max_documents=100,
            texts=StubEngine().texts,
            fallback=EngineFallback(
                lexical_scores if request.param == "lexical" else None,
                lambda was, state: changes.append((was, state)),
                clock=clock,
            ),
        )
        client = create_app(service, request_timeout_s=30, max_body_bytes=100_000, limits={}).test_client()
        client.service, client.changes = service, changes
        yield client


def break_it(api, engine):
    engine.fails = True
    for _ in range(FAILURES):
        assert api.post("/rerank", json=NATIVE).status_code == 500
    assert api.service.fallback.breaker.state == "open"


@pytest.mark.parametrize("api", ["refuse"], indirect=True)
def test_failures_are_told_in_the_callers_dialect_and_open_the_breaker(api, engine):
    engine.fails = True
    assert [api.post("/rerank", json=body).status_code for body in (NATIVE, COHERE, TEI)] == [500, 500, 424]
    for _ in range(FAILURES - 3):
        api.post("/rerank", json=NATIVE)
    reply = api.post("/rerank", json=NATIVE)
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
    assert "X-Rerank-Degraded" not in reply.headers


@pytest.mark.parametrize("api", ["refuse", "lexical"], indirect=True)
def test_after_the_pause_a_real_request_probes_and_the_service_is_back(api, engine, clock):
    break_it(api, engine)
    clock.now = 1.0
    assert api.post("/rerank", json=NATIVE).status_code == 500, "the probe"
    engine.fails = False
    clock.now = 3.0
    reply = api.post("/rerank", json=NATIVE)
    assert (reply.status_code, reply.json.get("degraded"), reply.json["model"]) == (200, None, "stub")
    assert api.service.fallback.breaker.state == "closed"
    steps = ["closed", "open", "half_open", "open", "half_open", "closed"]
    assert api.changes == list(itertools.pairwise(steps)), "each change is told once"


@pytest.mark.parametrize("api", ["refuse", "lexical"], indirect=True)
@pytest.mark.parametrize("more", [{}, {"max_tokens_per_doc": 2}], ids=["whole", "cut"])
def test_what_the_cache_knows_is_answered_while_the_breaker_is_open(api, engine, clock, more):
    known = {**NATIVE, **more, "query": "known"}
    first = api.post("/rerank", json=known).json["results"]
    break_it(api, engine)
    for now in (0.5, 1.0):  # open, then time for a probe, which this is none
        clock.now = now
        reply = api.post("/rerank", json=known)
        assert (reply.status_code, reply.json["results"]) == (200, first)
        assert "X-Rerank-Degraded" not in reply.headers
        assert api.service.fallback.breaker.state == "open"
    one_more = [*NATIVE["documents"], {"content": "a fourth"}]
    assert api.post("/rerank", json={**known, "documents": one_more}).status_code == 500, "the probe"
    assert api.post("/rerank", json=known).status_code == 200


@pytest.mark.parametrize("api", ["lexical"], indirect=True)
def test_degraded_answers_are_marked_and_ranked_by_words(api, engine):
    break_it(api, engine)
    native = api.post("/rerank", json=NATIVE)
    assert (native.status_code, native.json["degraded"], native.json["model"]) == (200, True, "bm25")
    assert native.headers["X-Rerank-Degraded"] == "lexical"
    assert [result["index"] for result in native.json["results"]] == [1, 2, 0]
    assert native.json["results"][0]["score"] == 1.0
    cohere = api.post("/rerank", json=COHERE)
    assert cohere.json["meta"]["degraded"] is True
    assert cohere.headers["X-Rerank-Degraded"] == "lexical"
    tei = api.post("/rerank", json=TEI)
    assert tei.headers["X-Rerank-Degraded"] == "lexical"


@pytest.mark.parametrize("api", ["lexical"], indirect=True)
def test_degraded_scores_are_never_kept(api, engine, clock):
    break_it(api, engine)
    assert api.post("/rerank", json=NATIVE).json["degraded"]
    assert api.service.scoring.cache.bytes == 0
    engine.fails = False
    clock.now = 3.0
    before = api.post("/rerank", json=NATIVE).json["results"]
    assert before == api.post("/rerank", json=NATIVE).json["results"]
    assert api.post("/rerank", json=NATIVE).json.get("degraded") is None


@pytest.mark.parametrize(
    ("query", "documents"), [("", ["a"]), ("zzz", ["abc def"]), ("?", ["", "!"]), ("x", ["y"] * 3), ("日本", ["日本"])]
)
def test_texts_without_common_words_get_zeros_and_no_error(query, documents):
    scores = lexical_scores(query, documents)
    assert scores.shape == (len(documents),)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_an_engine_thread_that_hangs_is_noticed(clock):
    begun, hang = threading.Event(), threading.Event()

    class Hanging(StubEngine):
        def open_session(self):
            class Session(StubSession):
                def score(self, pairs, length):
                    if pairs[0][0] == "hang":
                        begun.set()
                        assert hang.wait(PATIENCE_S)
                    return super().score(pairs, length)

            return Session()

    with Rig(Hanging(), threads=2) as rig:
        rig.scheduler._clock = clock
        watchdog = Watchdog(rig.scheduler, lambda: rig.pool.died, stall_s=30, clock=clock)

        def later(second):
            """Look every second until then, as a worker does."""
            fault = ""
            while clock.now < second:
                assert fault == ""
                clock.now += 1
                fault = watchdog.fault()
            return fault

        assert watchdog.fault() == ""
        _, waiter = rig.submit("hang", ["x"])
        assert begun.wait(PATIENCE_S)
        assert later(29) == ""
        assert rig.score("others go on", ["x"]).succeeded
        assert "31 s" in later(31)
        clock.now += 3600
        assert watchdog.fault() == "", "the process stood still, not the engine"
        assert "31 s" in later(clock.now + 31)
        hang.set()
        assert waiter.wait(PATIENCE_S)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_thread_that_dies_is_noticed():
    class Fatal(StubEngine):
        def open_session(self):
            class Session(StubSession):
                def score(self, pairs, length):
                    if pairs[0][0] == "die":
                        raise SystemExit
                    return super().score(pairs, length)

            return Session()

    with Rig(Fatal(), threads=1) as rig:
        watchdog = Watchdog(rig.scheduler, lambda: rig.pool.died, stall_s=30)
        rig.submit("die", ["x"])
        wait_for(watchdog.fault, "it is noticed")
        assert watchdog.fault() == "1 engine threads died"
