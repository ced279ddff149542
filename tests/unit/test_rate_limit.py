import random

import pytest

from webapp.domain.errors import PayloadTooLargeError, RateLimitedError
from webapp.service import rate_limit as module
from webapp.service.rate_limit import REDIS_REST_S, Quota, account_of, wait_for_room


@pytest.fixture
def now():
    """Seconds; it begins with a window."""

    class Clock:
        value = 6_000_000.0

        def __call__(self):
            return self.value

    return Clock()


def test_without_limits_nothing_is_counted():
    quota = Quota()
    for _ in range(100):
        quota.take("requests", "a", 10_000)
    assert not quota._own._counts


def test_each_unit_and_each_account_has_counts_of_its_own(now):
    quota = Quota(requests_per_minute=2, documents_per_minute=10, clock=now)
    quota.take("requests", "a", 2)
    quota.take("documents", "a", 10)
    quota.take("requests", "b", 2)
    with pytest.raises(RateLimitedError):
        quota.take("requests", "a")
    with pytest.raises(RateLimitedError):
        quota.take("documents", "a")


def test_an_account_s_own_limit_goes_before_everybody_s(now):
    quota = Quota(requests_per_minute=1, clock=now)
    quota.take("requests", "a", 5, most=5)
    quota.take("requests", "b", 100, most=0)
    with pytest.raises(RateLimitedError):
        quota.take("requests", "a", most=5)


def test_what_is_more_than_a_minute_s_worth_will_never_do(now):
    with pytest.raises(PayloadTooLargeError) as caught:
        Quota(documents_per_minute=10, clock=now).take("documents", "a", 11)
    assert caught.value.figures == {"limit": 10}


def refusal(quota, cost):
    try:
        quota.take("documents", "a", cost)
    except RateLimitedError as error:
        return error
    return None


def test_a_refused_caller_that_waits_as_long_as_the_refusal_says_gets_in(now):
    chance = random.Random(7)
    for _ in range(300):
        quota = Quota(documents_per_minute=100, clock=now)
        for _ in range(chance.randrange(1, 6)):
            now.value += chance.uniform(0, 50)
            cost = chance.randrange(1, 101)
            if error := refusal(quota, cost):
                assert error.figures["eta_s"] <= error.retry_after_s <= 120
                now.value += error.figures["eta_s"] + 0.001
                quota.take("documents", "a", cost)
        now.value += 200


def test_waiting_is_for_what_is_in_the_way():
    # 60 of the previous minute, fading by one a second for 40 s more; nothing yet in this one.
    assert wait_for_room((60, 40.0, 0, 0.0), cost=70, limit=100) == pytest.approx(10)
    # This minute has 20 s left, then its 100 fade.
    assert wait_for_room((0, 0.0, 100, 80.0), cost=50, limit=100) == pytest.approx(20 + 30)
    assert wait_for_room((0, 0.0, 0, 0.0), cost=1, limit=1) == 0


@pytest.mark.parametrize(
    ("address", "account"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("unix:", "unix:"),
        ("", ""),
    ],
)
def test_an_address_is_an_account_as_far_as_one_subscriber_has_it(address, account):
    assert account_of(address) == account


class Failing:
    """A Redis that fails."""

    asked = 0

    def hit(self, *_arguments, **_options):
        self.asked += 1
        raise ConnectionError("redis://:secret@host is gone")

    seen = hit


def test_when_redis_fails_memory_counts_and_redis_is_left_alone_for_a_while(now, caplog):
    redis = Failing()
    quota = Quota(requests_per_minute=2, shared=redis, clock=now)
    quota.take("requests", "a", 2)
    with pytest.raises(RateLimitedError):
        quota.take("requests", "a")
    assert redis.asked == 1
    assert "secret" not in caplog.text
    now.value += REDIS_REST_S
    with pytest.raises(RateLimitedError):
        quota.take("requests", "a")
    assert redis.asked == 2


def test_a_request_waits_no_longer_for_redis_than_it_may(now):
    limits = []

    def within(seconds, _run):
        limits.append(seconds)
        raise TimeoutError

    quota = Quota(requests_per_minute=2, documents_per_minute=2, shared=Failing(), within=within, clock=now)
    quota.take("requests", "a")
    quota.take("documents", "a")
    assert limits == [module.REDIS_WAIT_S]
    assert 2 * module.REDIS_WAIT_S <= 0.020
