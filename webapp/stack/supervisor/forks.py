"""Forks that lose no signal to stop: supervisord's, which become programs, and those of gunicorn's master.

A child begins with its parent's handlers, which only note a signal for the parent's loop. If it is told to stop before
it has become its program, or has handlers of its own, it would never hear of it, and be waited for until it is killed.
"""

import os
import signal

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def lose_no_stop() -> None:
    """From now on, a child of this process that is told to stop ends, until it chooses otherwise. Call it once."""
    before: set[int] = set()

    def hold() -> None:
        before.clear()
        before.update(signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS))

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def begin() -> None:
        for number in _STOPS:
            signal.signal(number, signal.SIG_DFL)
        release()

    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=begin)
