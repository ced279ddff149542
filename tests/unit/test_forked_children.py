"""Children that are told to stop before they have handlers of their own."""

import signal
import subprocess
import sys

from running import PATIENCE_S

FORKED = """
import os, signal
{imports}
from webapp.stack.processes import handle_stop_signals_in_forks

noted = []
signal.signal(signal.{name}, lambda number, _: noted.append(number))
handle_stop_signals_in_forks()
pid = os.fork()
while not pid:  # a child that never chooses handlers
    signal.alarm(30)
    signal.pause()
os.kill(pid, signal.{name})
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os.kill(os.getpid(), signal.{name})
print(noted, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


def forked(name, imports=""):
    return subprocess.run(
        [sys.executable, "-c", FORKED.format(name=name, imports=imports)],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    ).stdout.splitlines()


def test_a_signal_right_after_the_fork_stops_the_child_and_reaches_its_parent():
    assert forked("SIGTERM") == [str(-signal.SIGTERM), "[15] set()"]
    assert forked("SIGQUIT") == [str(-signal.SIGQUIT), "[3] set()"]


def test_a_gevent_worker_is_such_a_child():
    assert forked("SIGTERM", "from gevent import monkey; monkey.patch_all()") == [str(-signal.SIGTERM), "[15] set()"]
