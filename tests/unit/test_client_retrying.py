"""When the client tries again: the laws at the top of reranking_client/retrying.py."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reranking_client import Budget, CallFailedError, OutOfTimeError, RefusedError, Retries, UnreachableError
from reranking_client.retrying import CallState, NoReply, Reply, retry_after_s

REFUSAL = json.dumps({"error": {"code": "overloaded", "message": "the service is full"}}).encode()
FULL = Reply(503, {}, REFUSAL)
LOST = NoReply("Connection refused")
DELAYS_S = Retries().delays_s


def call_state(*, time_s=300.0, budget=None, draw=lambda: 1.0):
    return CallState(
        base="http://here",
        request_id="id",
        retries=Retries(),
        budget=budget or Budget(),
        began=0.0,
        deadline=time_s,
        draw=draw,
    )


def test_delays_grow_and_then_it_gives_up():
    call = call_state()
    assert [call.after(FULL, now) for now in range(4)] == [0.1, 0.4, 1.6, 6.4]
    with pytest.raises(RefusedError) as failed:
        call.after(FULL, 8.2)
    assert (failed.value.status, failed.value.code) == (503, "overloaded")
    assert str(failed.value) == ("http://here says 503: the service is full; 5 tries in 8.2 s: 5 x 503; request id id")


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_pass_is_tried_again(status):
    assert call_state().after(Reply(status, {}, b""), 0.0) == 0.1


@pytest.mark.parametrize("status", [201, 301, 308, 400, 401, 404, 408, 413, 422, 499, 500, 501])
def test_what_another_try_would_not_change_is_told_at_once(status):
    budget = Budget(burst=1)
    with pytest.raises(RefusedError) as failed:
        call_state(budget=budget).after(Reply(status, {}, b"<html>"), 0.0)
    assert failed.value.status == status
    assert "tries" not in str(failed.value)
    assert budget.spend(), "nothing was taken from the budget"


def test_a_certificate_that_is_not_trusted_will_not_be_next_time():
    with pytest.raises(UnreachableError, match="not trusted"):
        call_state().after(NoReply("its certificate is not trusted", untrusted=True), 0.0)


def test_retry_after_comes_before_the_jitter():
    assert call_state(draw=lambda: 0.5).after(Reply(503, {"retry-after": "7"}, b""), 0.0) == 7.05


def test_a_wait_beyond_the_deadline_is_not_begun():
    with pytest.raises(RefusedError, match=r"the next try is due in 7\.1 s, and 5\.0 s are left"):
        call_state(time_s=5.0).after(Reply(503, {"retry-after": "7"}, REFUSAL), 0.0)


def test_time_that_is_over_is_told_as_such():
    with pytest.raises(OutOfTimeError, match="gave no answer in 5 s"):
        call_state(time_s=5.0).after(NoReply("no answer in time"), 4.999)
    with pytest.raises(OutOfTimeError):
        call_state(time_s=5.0).left_s(5.0)
    late = json.dumps({"error": {"code": "deadline_exceeded", "message": "the time is over"}}).encode()
    with pytest.raises(OutOfTimeError, match="the time is over") as failed:
        call_state(time_s=5.0).after(Reply(504, {}, late), 4.9)
    assert failed.value.status == 504


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"retry-after": "3"}, 3),
        ({"retry-after": " 3 "}, 3),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "nan"}, 0),
        ({"retry-after": "9" * 5000}, 0),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:30 GMT", "date": "Sat, 21 Nov 2026 12:00:00 GMT"}, 30),
        ({"retry-after": "Sat, 21 Nov 2026 11:00:00 GMT", "date": "Sat, 21 Nov 2026 12:00:00 GMT"}, 0),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:30 GMT"}, 0),
    ],
)
def test_retry_after_is_read_in_both_of_its_forms(headers, seconds):
    assert retry_after_s(headers) == seconds


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (REFUSAL, "overloaded", "the service is full"),
        (b'{"error": {"code": 429, "message": "full"}, "code": "overloaded"}', "overloaded", "full"),
        (b'{"error": {"code": 429, "message": "two\\nlines"}}', "", "two lines"),
        (b'{"error": "no"}', "", "no reason given"),
        (b"<html>", "", "no reason given"),
        (b"[" * 100_000, "", "no reason given"),
        (b"\xff", "", "no reason given"),
    ],
)
def test_errors_are_understood_whoever_sends_them(body, code, message):
    with pytest.raises(RefusedError) as failed:
        call_state().after(Reply(400, {}, body), 0.0)
    assert (failed.value.code, failed.value.message) == (code, f"http://here says 400: {message}")


def test_an_address_that_moved_is_named():
    with pytest.raises(RefusedError, match="the service is at https://there/rerank"):
        call_state().after(Reply(308, {"location": "https://there/rerank"}, b""), 0.0)


def test_a_spent_budget_ends_a_call_and_is_told():
    budget = Budget(share=0.0, burst=1)
    assert call_state(budget=budget).after(LOST, 0.0) == 0.1
    with pytest.raises(UnreachableError, match=r"can't be reached \(Connection refused\); the retry budget is spent"):
        call_state(budget=budget).after(LOST, 0.0)


def test_a_budget_without_a_limit_has_none():
    budget = Budget(burst=math.inf)
    assert all(budget.spend() for _ in range(1000))


outcomes = st.sampled_from(
    [
        FULL,
        LOST,
        Reply(429, {"retry-after": "2"}, b""),
        Reply(502, {}, b""),
        Reply(400, {}, REFUSAL),
        NoReply("untrusted", untrusted=True),
        Reply(200, {}, b"{}"),
    ]
)


@given(st.lists(st.lists(outcomes, min_size=6, max_size=6), max_size=30), st.floats(0.1, 20), st.floats(0, 1))
def test_no_sequence_of_outcomes_breaks_a_law(calls, time_s, dice):
    budget, retried = Budget(share=0.2, burst=3), 0
    for script in calls:
        now, tried, told = 0.0, 0, 0
        call = call_state(time_s=time_s, budget=budget, draw=lambda: dice)
        for outcome in script:
            tried += 1
            try:
                wait_s = call.after(outcome, now)
            except CallFailedError as failed:
                told = len(failed.tries)
                break
            if wait_s is None:
                break
            assert outcome in (FULL, LOST) or outcome.status in {429, 502}
            told_s = retry_after_s(getattr(outcome, "headers", {}))
            assert told_s <= wait_s <= told_s + DELAYS_S[tried - 1]
            now += wait_s
            assert now < time_s
            retried += 1
        assert tried <= 1 + len(DELAYS_S)
        assert told in {0, tried}
    assert retried <= 3 + 0.2 * len(calls)
