"""Where things of a service lie: all below its state directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING


def socket_of(run_dir: Path, color: str) -> Path:
    """Where a color's gunicorn listens; without colors there is one socket."""
    return run_dir / (f"webapp-{color}.sock" if color else "webapp.sock")


class Paths:
    """Paths and addresses that follow from settings."""

    if TYPE_CHECKING:  # where they are fields, they have an order of their own
        state_dir: Path
        events_endpoint: str
        color: str

    @property
    def own_key(self) -> Path:
        """The stack's own key, made at each start; whoever may read it is us."""
        return self.run_dir / "own.key"

    @property
    def run_dir(self) -> Path:
        """Sockets and pid files; private to the user."""
        return self.state_dir / "run"

    @property
    def body_memory_file(self) -> Path:
        """Where all workers count the memory that large bodies take."""
        return self.run_dir / "body-memory"

    @property
    def log_dir(self) -> Path:
        """One file a program, written and rotated by supervisor."""
        return self.state_dir / "log"

    @property
    def models_dir(self) -> Path:
        """Prepared artifacts and downloaded models."""
        return self.state_dir / "models"

    @property
    def pusher_socket(self) -> Path:
        """Where the pusher listens for nginx."""
        return self.run_dir / "pusher.sock"

    @property
    def events_address(self) -> str:
        """Where the pusher listens for workers."""
        return self.events_endpoint or f"ipc://{self.run_dir / 'events.sock'}"

    @property
    def metrics_socket(self) -> Path:
        """Where the exporter listens for nginx."""
        return self.run_dir / "metrics.sock"

    @property
    def replies_dir(self) -> Path:
        """Large replies until nginx has opened them."""
        return self.run_dir / "replies"

    @property
    def webapp_socket(self) -> Path:
        """Where gunicorn listens for nginx."""
        return socket_of(self.run_dir, self.color)
