"""Locks of files, between processes and between two descriptors of one."""

import subprocess
import sys

from webapp.config.lockfile import is_locked, lock

HOLDER = """
import sys
from webapp.config.lockfile import lock
with open(sys.argv[1], "w") as file:
    print(lock(file), flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_refused_while_another_process_has_it_and_free_when_that_dies(tmp_path):
    path = tmp_path / "lock"
    assert not is_locked(path), "there is no such file"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"True\n"
        assert is_locked(path)
        with path.open() as file:
            assert not lock(file)
            holder.kill()
            assert lock(file, wait=True)
            assert is_locked(path)
    assert not is_locked(path)


def test_to_ask_for_a_lock_takes_none(tmp_path):
    path = tmp_path / "lock"
    with path.open("w") as file:
        assert not is_locked(path)
        assert lock(file)
