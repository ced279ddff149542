"""Clients share the engine, however many requests each has."""

import pytest

from webapp.domain.concurrency import allocate_lock
from webapp.engine.runtimes.stub import StubSession
from webapp.scheduling.scheduler import Scheduler


@pytest.fixture
def scheduler():
    return Scheduler(lock=allocate_lock(), budget_tokens=256, threads=1)


def submit(scheduler, client, requests, documents=2):
    return [scheduler.submit(client, ["x" * 200] * documents, lambda: None, client=client) for _ in range(requests)]


def run_until(scheduler, condition):
    steps = 0
    while not condition():
        assert scheduler.step(StubSession())
        steps += 1
    return steps


def test_a_few_requests_are_not_held_up_by_the_many_of_another_client(scheduler):
    many = submit(scheduler, "many", 200)
    few = submit(scheduler, "few", 5)
    run_until(scheduler, lambda: all(ticket.succeeded for ticket in few))
    done = sum(ticket.succeeded for ticket in many)
    assert done <= 15, "about as many as its own"


def test_a_new_client_has_no_credit_from_before(scheduler):
    first = submit(scheduler, "first", 100)
    run_until(scheduler, lambda: sum(ticket.succeeded for ticket in first) == 50)
    second = submit(scheduler, "second", 100)
    run_until(scheduler, lambda: sum(ticket.succeeded for ticket in second) == 20)
    assert sum(ticket.succeeded for ticket in first) >= 50 + 15, "the first goes on meanwhile"


def test_small_and_large_requests_both_go_on(scheduler):
    (large,) = submit(scheduler, "large", 1, documents=2000)
    small_steps = []
    while not large.succeeded:
        (small,) = submit(scheduler, "small", 1)
        small_steps.append(run_until(scheduler, lambda small=small: small.succeeded))
        assert len(small_steps) < 10_000
    assert max(small_steps) <= 8, "a small request waits for a few batches"


def test_nothing_of_a_client_is_kept_when_it_is_gone(scheduler):
    tickets = submit(scheduler, "one", 3)
    run_until(scheduler, lambda: all(ticket.succeeded for ticket in tickets))
    assert scheduler._backlog._served == {}
    assert not scheduler._backlog._clients
    assert not scheduler._backlog._index._lines[0]._ranks
