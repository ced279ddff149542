import gevent
import pytest
from running import PATIENCE_S

from webapp.concurrency import GeventWaiter, NativeWaiter, SimpleQueue, start_native_thread


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
