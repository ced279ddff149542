"""What a Ray proxy thinks that each replica has still to do."""

import pytest

from webapp.servers.ray.backlogs import Backlogs


@pytest.fixture
def backlogs(clock):
    return Backlogs(clock)


def at_100_bytes_a_second(backlogs, clock, *replicas):
    """Each has ended one request, and what is measured is known."""
    for replica in replicas:
        backlogs.choose(f"first of {replica}", replica, 1000)
    clock.now += 10
    for replica in replicas:
        backlogs.end(f"first of {replica}")


def test_a_request_counts_from_the_choice_to_its_end(backlogs):
    backlogs.choose("a", "one", 700)
    backlogs.choose("b", "one", 50)
    assert (backlogs.of("one"), backlogs.of("two")) == (750, 0)
    backlogs.send("a", "one")
    backlogs.end("a")
    assert backlogs.of("one") == 50


def test_a_request_that_another_replica_took_counts_there(backlogs):
    backlogs.choose("a", "one", 700)
    backlogs.send("a", "two")
    assert (backlogs.of("one"), backlogs.of("two")) == (0, 700)
    backlogs.end("a")
    assert backlogs.of("two") == 0


def test_a_second_try_counts_once(backlogs):
    backlogs.choose("a", "one", 700)
    backlogs.choose("a", "two", 700)
    assert (backlogs.of("one"), backlogs.of("two")) == (0, 700)


def test_a_request_that_was_never_sent_is_dropped_and_one_that_was_is_not(backlogs):
    for name in ("hung up", "sent"):
        backlogs.choose(name, "one", 700)
    backlogs.send("sent", "one")
    for name in ("hung up", "sent", "unknown"):
        backlogs.drop(name)
    assert backlogs.of("one") == 700


def test_an_end_that_is_told_before_the_sending_is_the_end(backlogs):
    backlogs.choose("a", "one", 700)
    backlogs.end("a")
    backlogs.send("a", "one")
    backlogs.end("a")
    assert backlogs.of("one") == 0


def test_what_is_left_of_a_request_shrinks_at_the_speed_of_the_last_ones(backlogs, clock):
    at_100_bytes_a_second(backlogs, clock, "one")
    backlogs.choose("a", "one", 1000)
    backlogs.choose("b", "one", 1000)
    clock.now += 4
    assert backlogs.of("one") == pytest.approx(1600)
    clock.now += 100
    assert backlogs.of("one") == pytest.approx(1000), "at most one request, for its end would be known"
    backlogs.end("a")
    assert backlogs.of("one") == pytest.approx(1000)


def test_a_replica_that_has_just_answered_is_better_although_its_end_is_not_told_yet(backlogs, clock):
    """Its client's next request comes before that."""
    at_100_bytes_a_second(backlogs, clock, "one", "two")
    backlogs.choose("a", "one", 1000)
    backlogs.choose("b", "one", 1000)
    clock.now += 5
    backlogs.choose("c", "two", 1000)
    backlogs.choose("d", "two", 1000)
    clock.now += 5
    assert backlogs.of("one") < backlogs.of("two")


def test_a_speed_is_that_of_the_last_requests(backlogs, clock):
    at_100_bytes_a_second(backlogs, clock, "one")
    for number in range(40):
        backlogs.choose(str(number), "one", 1000)
        clock.now += 1
        backlogs.end(str(number))
    backlogs.choose("a", "one", 1000)
    clock.now += 0.5
    assert backlogs.of("one") == pytest.approx(500, rel=0.05)


def test_time_without_requests_is_no_work(backlogs, clock):
    at_100_bytes_a_second(backlogs, clock, "one")
    clock.now += 3600
    at_100_bytes_a_second(backlogs, clock, "one")
    backlogs.choose("a", "one", 1000)
    clock.now += 1
    assert backlogs.of("one") == pytest.approx(900)


def test_a_replica_that_is_gone_takes_its_requests_with_it(backlogs):
    backlogs.choose("a", "one", 700)
    backlogs.choose("b", "two", 700)
    backlogs.keep({"two"})
    assert (backlogs.of("one"), backlogs.of("two")) == (0, 700)
    for tell in (backlogs.end, backlogs.drop):
        tell("a")
    backlogs.send("a", "two")
    assert backlogs.of("two") == 700


def test_nothing_is_kept_of_requests_that_ended(backlogs):
    for number in range(100):
        backlogs.choose(str(number), number % 3, 10)
        backlogs.send(str(number), number % 2)
        backlogs.end(str(number))
    assert (backlogs._chosen, backlogs._unsent) == ({}, set())
