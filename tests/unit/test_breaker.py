import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.scheduling.breaker import FAILURES, PAUSE_S, PROBE_S, Breaker


@pytest.fixture
def changes():
    return []


@pytest.fixture
def breaker(changes):
    return Breaker(lambda old, new: changes.append((old, new)))


def open_at(breaker, now):
    for _ in range(FAILURES):
        breaker.failed(now)


def test_failures_in_a_row_open_it_and_are_told(breaker, changes):
    open_at(breaker, 0.0)
    assert not breaker.allows(0.5)
    assert changes == [("closed", "open")]
    assert breaker.opened == 1
    assert breaker.retry_after_s(0.5) == 1


def test_a_request_that_the_engine_cannot_digest_does_not_open_it(breaker):
    for _ in range(10 * FAILURES):
        breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.state == "closed"


def test_after_a_pause_one_request_probes_and_the_others_wait(breaker):
    open_at(breaker, 0.0)
    assert [breaker.allows(PAUSE_S[0]) for _ in range(3)] == [True, False, False]
    assert breaker.state == "half_open"


def test_a_probe_that_is_scored_closes_it(breaker):
    open_at(breaker, 0.0)
    assert breaker.allows(PAUSE_S[0])
    breaker.succeeded()
    assert breaker.state == "closed"
    assert breaker.allows(PAUSE_S[0])


def test_each_failed_probe_doubles_the_pause_up_to_a_limit(breaker):
    now, pauses = 0.0, []
    open_at(breaker, now)
    for _ in range(8):
        pauses.append(breaker._try_at - now)
        now = breaker._try_at
        assert breaker.allows(now)
        breaker.failed(now)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_probe_that_tells_nothing_makes_room_for_another(breaker):
    open_at(breaker, 0.0)
    assert breaker.allows(1.0)
    breaker.no_outcome(2.0)
    assert breaker.allows(2.0)
    assert not breaker.allows(2.0 + PROBE_S / 2)
    assert breaker.allows(2.0 + PROBE_S)


@given(st.lists(st.sampled_from(["allows", "failed", "succeeded", "no_outcome", "wait"])))
def test_it_never_stays_open_for_ever(events):
    breaker, now = Breaker(), 0.0
    for event in events:
        if event == "wait":
            now += 7.0
        elif event == "succeeded":
            breaker.succeeded()
        else:
            getattr(breaker, event)(now)
    assert breaker.allows(now + max(PAUSE_S[1], PROBE_S))
