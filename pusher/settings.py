"""The settings of the webapp that the pusher needs, read without it.

`webapp.config.settings` describes them, and `reranking serve` has checked them; it names their file in RERANK_CONFIG.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

PREFIX = "rerank_"

ARGUMENTS = ("listen", "events_listen")
"""What is no setting of the webapp: the arguments of a pusher that serves several stacks."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings by their names in the webapp, with the same defaults."""

    state_dir: str = "var"
    events_key: str = ""
    api_keys: str = ""
    api_keys_file: str = ""
    operator_keys: str = ""
    dashboard_origins: str = ""
    color: str = ""
    log_level: str = "info"
    log_format: str = "auto"
    listen: str = ""
    """host:port for the stacks' nginx; empty: the socket in the run directory, of this stack alone."""
    events_listen: str = ""
    """ZeroMQ address for workers; empty: the socket in the run directory."""

    @property
    def run_dir(self) -> Path:
        """Folder of sockets and of the state file; private to the user."""
        return Path(self.state_dir).expanduser().absolute() / "run"

    @property
    def socket(self) -> Path:
        """Socket on which nginx finds the pusher."""
        return self.run_dir / "pusher.sock"

    @property
    def own_key(self) -> Path:
        """File of the stack's own key."""
        return self.run_dir / "own.key"

    @property
    def state_file(self) -> Path:
        """File from which a restarted pusher goes on."""
        return self.run_dir / "pusher.json"

    @property
    def intake_address(self) -> str:
        """ZeroMQ address to which workers connect."""
        return self.events_listen or f"ipc://{self.run_dir / 'events.sock'}"


def load_settings(arguments: Sequence[str] = ()) -> Settings:
    """Return the settings of the environment and, below them, of the file.

    Args:
        arguments: none, or the values of `ARGUMENTS`, as `reranking pusher` has checked them.
    """
    found: dict[str, Any] = {}
    if path := os.environ.get("RERANK_CONFIG"):
        import yaml  # noqa: PLC0415 - most services have no file

        try:
            found = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise SystemExit(f"pusher: RERANK_CONFIG: {path} can't be read ({error.strerror})") from None
    given = {name.lower(): value for name, value in os.environ.items()}
    found |= {name.removeprefix(PREFIX): value for name, value in given.items() if name.startswith(PREFIX)}
    settings = (field.name for field in fields(Settings) if field.name in found and field.name not in ARGUMENTS)
    listens = dict(zip(ARGUMENTS, arguments, strict=True)) if arguments else {}
    return Settings(**{name: _text(name, found) for name in settings}, **listens)


def _text(name: str, found: dict[str, Any]) -> str:
    """Return a value as a variable has it: a file may have a list where a variable has commas."""
    value = found[name]
    if isinstance(value, list):
        return ",".join(map(str, value))
    if not isinstance(value, str):  # above all, an empty `api_keys:` makes no key of "None"
        raise SystemExit(f"pusher: {name} is no text")
    return value


def listed(value: str) -> list[str]:
    """Return the entries of a comma-separated setting."""
    return [entry.strip() for entry in value.split(",") if entry.strip()]
