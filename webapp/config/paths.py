"""Where our own files are, and where a service keeps its files: all below its state directory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds webapp, pusher, contracts, nginx, supervisor and gunicorn_config.py.

It is the same in a clone, a wheel and an executable.
"""

_FROZEN = getattr(sys, "frozen", False)
"""Whether this is an executable; PyInstaller sets it."""

_CLONE = (ROOT / "reranking_server").is_dir()
"""Whether this is a source tree; a wheel's ROOT is that folder itself."""

STATE = (Path(sys.executable).parent if _FROZEN else ROOT if _CLONE else Path()) / "var"
"""The default state directory. A wheel keeps nothing beside its code; an executable has its model there."""


def program(module: str, *arguments: str, python: str = sys.executable) -> list[str]:
    """Return the command that runs a module of ours as a process, from any current folder."""
    return [python, "-m", "reranking_server", "-m", module, *arguments]


def socket_of(run_dir: Path, color: str) -> Path:
    """Return the socket where a color's gunicorn listens; without colors there is one socket."""
    return run_dir / (f"webapp-{color}.sock" if color else "webapp.sock")


class Paths:
    """Paths and addresses that follow from settings."""

    if TYPE_CHECKING:  # where they are fields, they have an order of their own
        state_dir: Path
        events_endpoint: str
        color: str

    @property
    def own_key(self) -> Path:
        """The stack's own key, made at each start and readable by our user alone."""
        return self.run_dir / "own.key"

    @property
    def run_dir(self) -> Path:
        """Sockets and pid files; private to the user."""
        return self.state_dir / "run"

    @property
    def body_memory_file(self) -> Path:
        """The file where all workers count the memory that large bodies take."""
        return self.run_dir / "body-memory"

    @property
    def log_dir(self) -> Path:
        """The log files, one a program, written and rotated by supervisor."""
        return self.state_dir / "log"

    @property
    def models_dir(self) -> Path:
        """Prepared artifacts and downloaded models."""
        return self.state_dir / "models"

    @property
    def pusher_socket(self) -> Path:
        """The socket where the pusher listens for nginx."""
        return self.run_dir / "pusher.sock"

    @property
    def events_address(self) -> str:
        """The ZeroMQ address to which workers send events."""
        return self.events_endpoint or f"ipc://{self.run_dir / 'events.sock'}"

    @property
    def metrics_socket(self) -> Path:
        """The socket where the metrics exporter listens for nginx."""
        return self.run_dir / "metrics.sock"

    @property
    def replies_dir(self) -> Path:
        """Large replies, until nginx has opened them."""
        return self.run_dir / "replies"

    @property
    def draining_file(self) -> Path:
        """The file that is there while the stack drains: workers and nginx look for it."""
        return self.run_dir / "draining"

    @property
    def webapp_socket(self) -> Path:
        """The socket where gunicorn listens for nginx."""
        return socket_of(self.run_dir, self.color)
