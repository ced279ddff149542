"""Where our own files lie: beside the packages in a source tree, inside webapp where a wheel was installed."""

from __future__ import annotations

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
"""The project's top folder; of a wheel, the folder into which it was installed."""

_PACKED = Path(__file__).resolve().parent.parent / "packed"
"""What setup.py puts into a wheel."""

INSTALLED = _PACKED.is_dir()
"""Whether this is no source tree."""

ROOT = _PACKED if INSTALLED else PROJECT
"""nginx/, supervisor/ and gunicorn_config.py lie here."""

_FROZEN = getattr(sys, "frozen", False)
"""Whether this is an executable; PyInstaller says so."""

STATE = (Path(sys.executable).parent if _FROZEN else Path() if INSTALLED else PROJECT) / "var"
"""The state directory where none is chosen. A wheel keeps nothing beside its code; an executable has its model so."""
