"""Clients take turns on one thread, by the time that each took."""

import threading

import gevent
import pytest
from running import PATIENCE_S

from webapp.api.fair_worker import MOST_IDLE, FairWorker
from webapp.domain.concurrency import NativeWaiter
from webapp.servers.gunicorn.bridge import GeventWaiter

LATER = float("inf")


class Desk:
    """Turns whose thread is held until `open`, and a clock that goes on with each work."""

    def __init__(self):
        self.now = 0.0
        self.done = []
        self.turns = FairWorker(GeventWaiter, clock=lambda: self.now)
        self.close()

    def close(self):
        self.done.clear()
        self._gate = threading.Event()
        self._first = gevent.spawn(self.turns, "first", LATER, lambda: self._gate.wait(PATIENCE_S))
        gevent.sleep(0)

    def ask(self, client, seconds=1.0, deadline=LATER):
        def work():
            self.now += seconds
            self.done.append(client)

        asking = gevent.spawn(self.turns, client, deadline, work)
        gevent.sleep(0)
        return asking

    def open(self, *asking):
        self._gate.set()
        gevent.joinall([self._first, *asking], raise_error=True)


@pytest.fixture
def desk():
    made = Desk()
    yield made
    made.open()
    made.turns.end()


def test_what_was_done_is_returned_and_what_went_wrong_is_raised():
    turns = FairWorker(NativeWaiter)
    assert turns("a", LATER, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        turns("a", LATER, lambda: 1 / 0)
    assert turns("a", LATER, lambda: 8) == 8
    turns.end()


def test_clients_with_much_work_wait_for_clients_with_little(desk):
    desk.open(*[desk.ask("greedy") for _ in range(4)], desk.ask("modest"), desk.ask("other"))
    assert desk.done == ["greedy", "modest", "other", "greedy", "greedy", "greedy"]


def test_turns_are_counted_by_the_time_they_take(desk):
    desk.open(*[desk.ask("slow", 3.0) for _ in range(2)], *[desk.ask("quick") for _ in range(4)])
    assert desk.done == ["slow", "quick", "quick", "quick", "slow", "quick"]


def test_a_client_that_comes_later_has_no_turns_saved(desk):
    desk.open(*[desk.ask("old", 10.0) for _ in range(5)])
    desk.close()
    desk.open(*[desk.ask("old", 10.0) for _ in range(3)], *[desk.ask("new", 10.0) for _ in range(3)])
    assert sorted(desk.done[:4]) == ["new", "new", "old", "old"]


def test_a_request_that_waited_too_long_fails_at_once_and_its_work_is_never_done(desk):
    with pytest.raises(TimeoutError):
        desk.ask("late", deadline=-1.0).get()
    desk.open(desk.ask("next"))
    assert desk.done == ["next"]


def test_the_work_of_a_client_that_left_is_not_done(desk):
    leaving = desk.ask("leaving")
    leaving.kill()
    desk.open(desk.ask("next"))
    assert desk.done == ["next"]


def test_what_a_client_used_counts_after_a_time_in_which_nobody_waited(desk):
    desk.open(desk.ask("heavy", 9.0))
    desk.close()
    desk.open(*[desk.ask("heavy") for _ in range(3)], desk.ask("light"))
    assert desk.done == ["light", "heavy", "heavy", "heavy"]


def test_of_clients_that_are_gone_only_the_heaviest_are_remembered(desk):
    for number in range(10 * MOST_IDLE):
        desk.ask(str(number))
    desk.open(desk.ask("heavy", 9.0), *[desk.ask("steady") for _ in range(3)])
    assert len(desk.turns._taken_s) <= 3 * MOST_IDLE
    assert "heavy" in desk.turns._taken_s
