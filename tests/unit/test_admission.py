"""Whole requests, one step, honest refusals."""

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduling_kit import Rig

from webapp.domain.errors import OverloadedError, PayloadTooLargeError
from webapp.domain.types import RerankRequest
from webapp.engine.runtimes.stub import StubEngine
from webapp.scheduling.admission import Admission
from webapp.scheduling.scheduler import RATE_MEMORY_S, Rate

NOW = 1000.0


@dataclass
class FakeQueue:
    queued_pairs: int = 0
    queued_tokens: int = 0
    tokens_per_s: float = 0.0
    before: int | None = None
    longest_chars: int = 2048

    def queued_tokens_before(self, tokens, priority):
        del tokens, priority
        return self.queued_tokens if self.before is None else self.before


def admission(queue=None, **limits):
    options = {"max_ongoing_requests": 100, "max_queued_pairs": 100, "max_queued_tokens": 10_000, **limits}
    return Admission(
        queue=queue or FakeQueue(), clock=lambda: NOW, uniform=lambda low, high: (low + high) / 2, **options
    )


def request(documents, text="x"):
    return RerankRequest(query="q", documents=[text] * documents, originals=[])


def test_a_request_comes_in_whole_or_not_at_all():
    door = admission(max_queued_pairs=10)
    with door.admit([request(6)]), pytest.raises(OverloadedError), door.admit([request(2), request(3)]):
        pass
    with door.arrive(0), door.admit([request(10)]):
        assert door.ongoing == 1
    assert door.ongoing == 0


def test_what_was_admitted_and_is_not_in_the_queue_yet_holds_its_place():
    queue = FakeQueue()
    door = admission(queue, max_queued_pairs=10)
    with door.admit([request(6)]) as place:
        with pytest.raises(OverloadedError), door.admit([request(5)]):
            pass
        queue.queued_pairs = 2  # the cache had the others
        door.queued(place)
        with door.admit([request(8)]):
            pass


def test_a_request_that_could_never_fit_is_told_the_limit():
    with pytest.raises(PayloadTooLargeError, match="100") as caught, admission().admit([request(101)]):
        pass
    assert caught.value.figures == {"limit": 100}
    with pytest.raises(PayloadTooLargeError, match="tokens"), admission().admit([request(30, "word " * 1000)]):
        pass


def test_what_the_model_cuts_off_does_not_count():
    with admission().admit([request(10, "x" * 1_000_000)]):
        pass


@pytest.mark.parametrize(
    ("queued_tokens", "rate", "seconds"), [(0, 0.0, 2), (1000, 100.0, 11), (10**4, 10.0, 30), (100, 1000.0, 1)]
)
def test_retry_after_follows_the_queue_and_the_measured_rate(queued_tokens, rate, seconds):
    queue = FakeQueue(queued_pairs=100, queued_tokens=queued_tokens, tokens_per_s=rate)
    with pytest.raises(OverloadedError) as caught:
        admission(queue).check()
    assert caught.value.retry_after_s == seconds
    assert caught.value.figures["queued"] == 100
    assert caught.value.figures["limit"] == 100
    assert caught.value.figures["eta_s"] == pytest.approx(queued_tokens / rate if rate else 1.0)


def test_retry_after_is_spread_so_that_the_refused_do_not_come_back_together():
    queue = FakeQueue(queued_pairs=100, queued_tokens=1000, tokens_per_s=100.0)
    door = Admission(max_ongoing_requests=9, max_queued_pairs=100, queue=queue)
    seen = set()
    for _ in range(100):
        with pytest.raises(OverloadedError) as caught:
            door.check()
        seen.add(caught.value.retry_after_s)
    assert len(seen) > 2
    assert seen <= set(range(1, 31))


def test_a_request_that_the_queue_would_keep_too_long_is_refused_at_once():
    door = admission(FakeQueue(queued_tokens=5000, tokens_per_s=100.0))
    with (
        pytest.raises(OverloadedError, match=r"takes 66\.7 s, the request has 20\.0 s"),
        door.admit([request(1)], NOW + 20),
    ):
        pass
    with door.admit([request(1)], NOW + 70):
        pass


def test_a_request_that_passes_the_queue_is_not_refused_for_its_length():
    door = admission(FakeQueue(queued_tokens=5000, tokens_per_s=100.0, before=100))
    with door.admit([request(1)], NOW + 20):
        pass


def test_while_no_rate_is_known_nobody_is_refused_for_it():
    with admission(FakeQueue(queued_tokens=5000)).admit([request(1)], NOW + 1):
        pass


def test_the_schedulers_queue_is_one_that_admission_understands():
    rig = Rig(StubEngine())  # its engine threads never start
    rig.submit("q", ["word " * 1000] * 50)
    rig.submit("q", ["x"])
    queue = rig.scheduler
    assert queue.queued_pairs == 51
    assert queue.queued_tokens_before(10**9, 0) == queue.queued_tokens
    assert 0 < queue.queued_tokens_before(10, 0) < 100, "a large request behind does not count"
    with pytest.raises(OverloadedError), admission(queue, max_queued_pairs=60).admit([request(10)]):
        pass


def test_the_queues_sums_return_to_zero_and_its_rate_is_measured():
    with Rig(StubEngine()) as rig:
        assert rig.score("q", ["a document of some length"] * 500).succeeded
        assert (rig.scheduler.queued_pairs, rig.scheduler.queued_tokens) == (0, 0)
        assert rig.scheduler.tokens_per_s > 0


@given(st.floats(1, 10_000), st.lists(st.floats(0.01, 1), min_size=60, max_size=80))
def test_the_rate_is_that_of_the_work_and_idle_time_does_not_count(true_rate, durations):
    rate, now = Rate(), 0.0
    rate.resume(now)
    for seconds in durations:
        now += seconds
        rate.add(int(seconds * true_rate), now)
        if seconds > 0.5:
            now += 3600
            rate.resume(now)
    assert rate.tokens_per_s <= true_rate * 1.01
    assert rate.tokens_per_s >= (true_rate - 100) * 0.99


def test_what_was_known_before_counts_less_and_less():
    rate = Rate(1000.0)
    rate.resume(0.0)
    assert rate.tokens_per_s == 1000
    rate.add(int(100 * RATE_MEMORY_S), RATE_MEMORY_S)
    assert 100 < rate.tokens_per_s < 1000 / math.e + 100


def test_a_request_counts_itself_but_only_behind_others():
    busy = admission(FakeQueue(queued_tokens=75, tokens_per_s=1.0), max_queued_pairs=1000)
    with pytest.raises(OverloadedError), busy.admit([request(100)], NOW + 110):
        pass
    with busy.admit([request(1)], NOW + 110):
        pass
    idle = admission(FakeQueue(tokens_per_s=1.0), max_queued_pairs=1000)
    with idle.admit([request(100)], NOW + 110):
        pass
