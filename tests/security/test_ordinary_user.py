"""The whole stack as a user with no other rights on this machine."""

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import psutil
import pytest
from ordinary_user import AS_NOBODY, NOBODY, PATHS, their_python
from running import Stack

pytestmark = pytest.mark.slow


@pytest.fixture
def home():
    """A folder of theirs; pytest's own are closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="reranking-"))
    os.chown(folder, NOBODY.pw_uid, NOBODY.pw_gid)
    yield folder
    shutil.rmtree(folder)


class Theirs(Stack):
    """A stack of another user's."""

    def begin(self):
        self._output = self.state_dir.with_suffix(".out")
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [their_python(), "-m", "webapp", "serve"],
                env={**self._environment, "PYTHONPATH": PATHS},
                stdout=output,
                stderr=subprocess.STDOUT,
                **AS_NOBODY,
            )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user; and the other tests show the same")
def test_everything_runs_as_an_ordinary_user_in_private_places(home):
    their_python()
    with Theirs(home / "state", engine="stub", tls="self-signed") as stack:
        family = [psutil.Process(stack.process.pid), *stack.family()]
        assert {(process.uids().real, process.uids().effective) for process in family} == {(NOBODY.pw_uid,) * 2}
        assert {process.name() for process in family} >= {"nginx"}
        run = home / "state" / "run"
        assert stat.S_IMODE(run.stat().st_mode) == 0o700
        sockets = [path for path in run.iterdir() if stat.S_ISSOCK(path.lstat().st_mode)]
        assert {"webapp-blue.sock", "pusher.sock", "supervisor.sock", "events.sock"} <= {path.name for path in sockets}
        assert [path for path in sockets if path.lstat().st_mode & 0o077] == []
