"""supervisord as we run it, where it forks."""

import signal
import subprocess
import sys

FORKED = """
import os, signal
from logs.keeper import Options

options = Options()
options.setsignals()
pid = options.fork()
while not pid:  # a child that never becomes its program
    signal.alarm(30)
    signal.pause()
os.kill(pid, signal.{name})
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), signal.getsignal(signal.{name}) != signal.SIG_DFL)
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


def forked(name):
    outcome = subprocess.run(
        [sys.executable, "-c", FORKED.format(name=name)], capture_output=True, text=True, check=True, timeout=120
    )
    return outcome.stdout.split("\n")[:2]


def test_a_child_that_is_told_to_stop_before_it_became_its_program_stops():
    assert forked("SIGTERM") == [f"{-signal.SIGTERM} True", "set()"]
    assert forked("SIGQUIT") == [f"{-signal.SIGQUIT} True", "set()"]
