"""The file from which a restarted pusher goes on: written once a second, read at the start."""

from __future__ import annotations

import json
import logging
import secrets
import time
from pathlib import Path
from typing import Any

from pusher.relay import Relay

log = logging.getLogger(__name__)

SAVE_S = 1.0

STALE_S = 600.0
"""An older file is ignored."""

SET_S = 2.0
"""The system's clock was set if it moved by more; less is how long writing and reading take."""

TIMES = frozenset({"t", "at", "began", "ended"})


def save(relay: Relay, path: Path, now: float) -> None:
    """Write the memory of a relay. The file is written aside, then moved: a kill leaves the old file or the new one.

    Raises:
        OSError: there is no room, or no directory.
    """
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps({"at": now, **relay.memory()}, separators=(",", ":")))
    aside.replace(path)


def recall(path: Path, now: float) -> Relay:
    """Return a relay with the memory of the last one; a new one where that is missing, old or damaged."""
    try:
        memory = json.loads(path.read_text())
        age_s = time.time() - path.stat().st_mtime  # by the system's clock, which wrote the file's date, too
        if age_s < STALE_S:
            set_by_s = now - age_s - memory["at"]  # our clock begins with the system's, which may have been set
            if abs(set_by_s) > SET_S:
                memory |= {name: _moved(memory[name], set_by_s) for name in ("ended", "recent", "points", "events")}
            relay = Relay(now)
            relay.recall(memory)
            return relay
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("began without what happened before: %s", error)
    return Relay(now, secrets.token_hex(16))


def _moved(value: Any, by_s: float) -> Any:
    """Return a memory with all times in it moved."""
    if isinstance(value, list):
        return [_moved(each, by_s) for each in value]
    if isinstance(value, dict):
        return {name: each + by_s if name in TIMES else _moved(each, by_s) for name, each in value.items()}
    return value
