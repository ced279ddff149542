import time
from types import SimpleNamespace

import pytest
from scheduling_kit import Rig

from webapp.domain.types import RerankRequest, Spent
from webapp.engine.runtimes.stub import StubEngine, StubSession
from webapp.scheduling.ticket import Phases
from webapp.servers.gunicorn.bridge import GeventWaiter
from webapp.service.inflight import CallOptions, InflightScores


def test_a_moment_belongs_to_one_phase_however_many_threads_are_at_it():
    phases = Phases(since=10.0)
    phases.change(11.0, chunks=1)
    phases.change(13.0, batches=1)
    phases.change(14.0, batches=1)
    phases.change(15.0, chunks=-1)
    phases.change(16.0, batches=-1)
    phases.change(20.0, batches=-1)
    phases.change(25.0)
    assert (phases.waited_s, phases.tokenise_s, phases.score_s) == (6.0, 2.0, 7.0)


class SlowSession(StubSession):
    def encode_documents(self, query, documents):
        time.sleep(0.02)
        return super().encode_documents(query, documents)

    def score(self, pairs, length):
        time.sleep(0.05)
        return super().score(pairs, length)


class SlowEngine(StubEngine):
    def open_session(self):
        return SlowSession()


def test_a_result_says_where_its_time_went_and_a_cached_one_spent_none():
    from webapp.service.cache.memory import MemoryCache

    request = RerankRequest(query="q", documents=["a", "b"], originals=["a", "b"])
    with Rig(SlowEngine(), threads=1) as rig:
        scoring = InflightScores(
            scheduler=rig.scheduler, cache=MemoryCache(100_000), artifact="stub", make_waiter=GeventWaiter
        )
        rig.submit("another", ["first"])
        began = time.monotonic()
        first = scoring.finish(scoring.begin(request, CallOptions(began + 30))).spent
        took_ms = (time.monotonic() - began) * 1000
        assert scoring.finish(scoring.begin(request, CallOptions(began + 60))).spent == Spent()
    assert first.queue_ms > 0
    assert first.tokenise_ms >= 20
    assert first.score_ms >= 50
    assert first.queue_ms + first.tokenise_ms + first.score_ms <= took_ms


@pytest.mark.parametrize(("padded", "tokens"), [(True, 64), (False, 59)])
def test_the_scheduler_counts_the_tokens_that_the_engine_computes(padded, tokens):
    with Rig(SimpleNamespace(padded=padded, start=lambda _: None, open_session=StubSession), threads=1) as rig:
        rig.score("q", ["abcd" * 30, "abcd" * 27])
        totals = rig.scheduler.totals
    assert sum(totals.sizes.values()) == totals.batches
    assert sum(rows * count for (rows, _), count in totals.sizes.items()) == totals.pairs == 2
    assert totals.batch_tokens == tokens
    assert sum(size * count for (_, size), count in totals.sizes.items()) - tokens < 16 * totals.batches


def test_the_scheduler_counts_what_the_engine_could_not_do():
    class Failing(StubSession):
        def score(self, pairs, length):
            if pairs[0][0] == "q":
                raise ValueError
            return super().score(pairs, length)

    class FailingEngine(StubEngine):
        def open_session(self):
            return Failing()

    with Rig(FailingEngine(), threads=1) as rig:
        assert rig.score("q", ["a"]).error is not None
        assert rig.scheduler.totals.failures == 1
