"""Where our own files lie. They are the same in a clone, a wheel and an executable: beside this package."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds webapp, pusher, contracts, nginx, supervisor and gunicorn_config.py."""

_FROZEN = getattr(sys, "frozen", False)
"""Whether this is an executable; PyInstaller says so."""

STATE = (Path(sys.executable).parent if _FROZEN else Path() if ROOT.name == "reranking_server" else ROOT) / "var"
"""The state directory where none is chosen. A wheel keeps nothing beside its code; an executable has its model so."""


def program(module: str, *arguments: str, python: str = sys.executable) -> list[str]:
    """Return the command that runs a module of ours as a process, whatever the current folder is."""
    return [python, "-m", "reranking_server", "-m", module, *arguments]
