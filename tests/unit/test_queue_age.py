"""How long the request that has waited longest has waited: a queue with a clock that only the test moves."""

from contextlib import nullcontext

from webapp.domain.errors import CancelledError
from webapp.engine.runtimes.stub import StubSession
from webapp.scheduling.scheduler import Scheduler


class Session(StubSession):
    """Takes four seconds to read and ten to score, and notes the queue's age meanwhile."""

    def __init__(self, rig):
        self._rig = rig

    def encode_documents(self, query, documents):
        self._rig.work(4.0)
        return super().encode_documents(query, documents)

    def score(self, pairs, length):
        self._rig.work(10.0)
        return super().score(pairs, length)


class Rig:
    def __init__(self):
        self.now = 100.0
        self.seen = []
        self.scheduler = Scheduler(lock=nullcontext(), budget_tokens=1024, threads=1, clock=lambda: self.now)
        self._session = Session(self)

    def work(self, seconds):
        self.now += seconds
        self.seen.append(self.age)

    @property
    def age(self):
        return self.scheduler.queue_age_s

    def submit(self):
        return self.scheduler.submit("q", ["a"], lambda: None)

    def step(self):
        self.scheduler.step(self._session)


def test_an_empty_queue_has_no_age():
    assert Rig().age == 0


def test_the_longest_wait_of_those_that_wait_counts():
    rig = Rig()
    first = rig.submit()
    rig.now += 3
    rig.submit()
    rig.now += 2
    assert rig.age == 5
    rig.scheduler.cancel(first, CancelledError("gone"))
    assert rig.age == 2


def test_a_request_that_is_read_or_scored_does_not_wait_however_long_that_takes():
    rig = Rig()
    rig.submit()
    rig.now += 3
    rig.step()
    assert rig.seen == [0]
    rig.now += 2
    assert rig.age == 5, "before it was read, and since"
    rig.step()
    assert rig.seen == [0, 0]
    assert rig.age == 0


def test_a_request_waits_while_another_is_read():
    rig = Rig()
    rig.submit()
    rig.step()
    rig.submit()
    rig.seen.clear()
    rig.step()
    assert rig.seen == [4.0]
    rig.step()
    assert rig.seen == [4.0, 0], "both are in one batch"
