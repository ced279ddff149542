import itertools
from _queue import SimpleQueue

import gevent
import pytest
from gevent.event import Event
from running import PATIENCE_S

from webapp.domain.concurrency import NativeWaiter, persistent, start_native_thread
from webapp.servers.gunicorn.bridge import GeventBridge, GeventWaiter


@pytest.mark.parametrize("make", [GeventWaiter, NativeWaiter])
def test_a_waiter_that_nobody_wakes_gives_up_in_time(make):
    assert make().wait(0.01) is False


@pytest.mark.parametrize("make", [GeventWaiter, NativeWaiter])
def test_waking_before_and_more_than_once_is_fine(make):
    waiter = make()
    waiter.wake()
    waiter.wake()
    assert waiter.wait(1) is True


def test_no_wake_up_from_a_native_thread_is_lost():
    """100,000 round trips between greenlets and a native thread."""
    jobs = SimpleQueue()

    def engine_thread():
        while (waiter := jobs.get()) is not None:
            waiter.wake()

    start_native_thread(engine_thread, ())

    def caller():
        for _ in range(2000):
            waiter = GeventWaiter()
            jobs.put(waiter)
            assert waiter.wait(PATIENCE_S)

    callers = [gevent.spawn(caller) for _ in range(50)]
    gevent.joinall(callers, raise_error=True)
    jobs.put(None)


def test_what_repeats_goes_on_after_a_failure():
    times, thrice = itertools.count(1), Event()

    def fails():
        if next(times) == 3:
            thrice.set()
        raise ValueError

    GeventBridge().repeat(0.001, fails)
    assert thrice.wait(PATIENCE_S)


def test_of_failures_in_a_row_the_first_is_logged(caplog):
    outcomes = [ValueError, OSError, None, KeyError, None]

    def run():
        if error := outcomes.pop(0):
            raise error

    attempt = persistent(run)
    for _ in range(5):
        attempt()
    assert [record.exc_info[0] for record in caplog.records] == [ValueError, KeyError]
