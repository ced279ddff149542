"""A stack with a terminal beside it."""

import os
import subprocess
import sys

from running import Stack


class ReleaseStack(Stack):
    """A stack with a terminal beside it."""

    def __init__(self, state_dir, *, python_path=None, **options):
        super().__init__(state_dir, **options)
        self._more = {"PYTHONPATH": str(python_path)} if python_path else {}
        self._environment |= self._more

    def reranking(self, *arguments, **options):
        """Run a command against it, as an operator does; returns exit code and everything that it said."""
        done = subprocess.run(
            [sys.executable, "-m", "webapp", *arguments],
            env=self._terminal(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **options,
        )
        return done.returncode, done.stdout

    def begin_command(self, *arguments):
        """The same, without waiting."""
        return subprocess.Popen(
            [sys.executable, "-m", "webapp", *arguments],
            env=self._terminal(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _terminal(self):
        """Another one than the stack was started from: it knows the state directory and nothing else."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith("RERANK_")}
        return {**mine, **self._more, "RERANK_STATE_DIR": str(self.state_dir)}
