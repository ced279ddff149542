import asyncio
import contextvars
import threading
from _queue import SimpleQueue

import pytest
from asgi_kit import PATIENCE_S, run

from webapp.domain.concurrency import start_native_thread
from webapp.domain.errors import CancelledError
from webapp.servers.ray.bridge import AsyncioBridge, AsyncioWaiter, in_greenlet, wait_for


def test_a_call_returns_what_it_made_or_raises_what_went_wrong():
    assert run(in_greenlet(lambda: 7)) == 7
    with pytest.raises(ZeroDivisionError):
        run(in_greenlet(lambda: 1 / 0))


def test_a_waiter_that_nobody_wakes_gives_up_in_time():
    assert run(in_greenlet(lambda: AsyncioWaiter().wait(0.01))) is False


def test_waking_before_and_more_than_once_is_fine():
    def call():
        waiter = AsyncioWaiter()
        waiter.wake()
        waiter.wake()
        return waiter.wait(PATIENCE_S)

    assert run(in_greenlet(call)) is True


def test_no_wake_up_from_a_native_thread_is_lost():
    """20,000 round trips between calls and a native thread."""
    jobs = SimpleQueue()

    def engine_thread():
        while (waiter := jobs.get()) is not None:
            waiter.wake()

    def caller():
        for _ in range(400):
            waiter = AsyncioWaiter()
            jobs.put(waiter)
            assert waiter.wait(PATIENCE_S)
        return True

    async def all_callers():
        return await asyncio.gather(*(in_greenlet(caller) for _ in range(50)))

    start_native_thread(engine_thread, ())
    assert all(run(all_callers()))
    jobs.put(None)


def test_waking_a_waiter_whose_loop_is_closed_raises_nothing():
    waiters = []
    run(in_greenlet(lambda: waiters.append(AsyncioWaiter())))
    waiters[0].wake()


def test_calls_change_places_only_where_they_wait():
    said = []

    def call(name):
        said.extend([name, name])
        AsyncioWaiter().wait(0)
        said.extend([name, name])

    async def both():
        await asyncio.gather(in_greenlet(lambda: call("a")), in_greenlet(lambda: call("b")))

    run(both())
    assert said[:4] == ["a", "a", "b", "b"]
    assert said[4:] in (["a", "a", "b", "b"], ["b", "b", "a", "a"])


def test_what_a_call_binds_in_its_context_is_no_other_ones():
    name = contextvars.ContextVar("name", default="none")

    def call(own):
        assert name.get() == "the task's"
        name.set(own)
        AsyncioWaiter().wait(0)
        return name.get()

    async def both():
        name.set("the task's")
        return await asyncio.gather(in_greenlet(lambda: call("a")), in_greenlet(lambda: call("b")))

    assert run(both()) == ["a", "b"]
    assert name.get() == "none"


def test_waiting_outside_of_a_call_is_a_mistake_that_is_told():
    async def main():
        AsyncioWaiter().wait(1)

    with pytest.raises(RuntimeError, match="in_greenlet"):
        run(main())


class Left:
    """A call whose caller hangs up while it waits."""

    def __init__(self, *, watches):
        self.bridge = AsyncioBridge()
        self.watches = watches
        self.told = None
        self.done = False

    def call(self):
        self.waiter = self.bridge.make_waiter()
        try:
            if self.watches:
                with self.bridge.watch({}):
                    self.woken = self.waiter.wait(PATIENCE_S)
            else:
                self.woken = self.waiter.wait(PATIENCE_S)
                with self.bridge.watch({}):
                    pass
        except CancelledError as error:
            self.told = error
        self.done = True

    async def main(self):
        task = asyncio.create_task(in_greenlet(self.call))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.waiter.wake()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_a_call_that_watches_over_its_caller_is_told_at_once_and_ends_by_itself():
    left = Left(watches=True)
    run(left.main())
    assert left.told
    assert left.done
    assert not hasattr(left, "woken")


def test_a_call_that_does_not_watch_gets_what_it_waits_for_and_is_told_when_it_does():
    left = Left(watches=False)
    run(left.main())
    assert left.woken is True
    assert left.told
    assert left.done


@pytest.mark.parametrize("where", ["offload", "within"])
def test_what_would_hold_the_loop_runs_on_a_thread_and_others_go_on(where):
    async def main():
        bridge = AsyncioBridge()
        go_on = threading.Event()
        run_it = {
            "offload": bridge.make_offload(),
            "within": lambda work: bridge.within(PATIENCE_S, work),
        }[where]

        def work():
            assert go_on.wait(PATIENCE_S)
            return threading.get_ident()

        slow = asyncio.create_task(in_greenlet(lambda: run_it(work)))
        await in_greenlet(lambda: bridge.make_waiter().wait(0.01))
        assert not slow.done()
        go_on.set()
        assert await slow != threading.get_ident()
        bridge.close()

    run(main())


def test_what_takes_longer_than_it_may_is_given_up():
    async def main():
        bridge, end = AsyncioBridge(), threading.Event()
        with pytest.raises(TimeoutError):
            await in_greenlet(lambda: bridge.within(0.01, lambda: end.wait(PATIENCE_S)))
        end.set()
        bridge.close()

    run(main())


def test_what_repeats_goes_on_after_a_failure():
    async def main():
        bridge, times = AsyncioBridge(), asyncio.Queue()

        def fails():
            times.put_nowait(1)
            raise ValueError

        bridge.repeat(0.001, fails)
        for _ in range(3):
            await times.get()
        bridge.close()

    run(main())


def test_what_repeats_ends_with_its_bridge():
    async def main():
        bridge, times = AsyncioBridge(), asyncio.Queue()
        bridge.repeat(0.001, lambda: times.put_nowait(1))
        for _ in range(3):
            await times.get()
        (task,) = bridge._tasks
        bridge.close()
        await asyncio.wait([task])
        assert task.cancelled()

    run(main())


def test_an_awaitable_that_fails_fails_where_it_was_waited_for():
    async def broken():
        raise ZeroDivisionError

    def call():
        with pytest.raises(ZeroDivisionError):
            wait_for(broken())
        return "goes on"

    assert run(in_greenlet(call)) == "goes on"
