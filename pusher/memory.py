"""What a restarted pusher goes on with: a small file, written beside the work, read at the start."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from pusher.relay import Relay

log = logging.getLogger(__name__)

SAVE_S = 1.0

STALE_S = 600.0
"""Older than this, it is another day's story."""


def save(relay: Relay, path: Path) -> None:
    """Write it aside, then into place: a kill leaves the old one or the new one."""
    aside = path.with_suffix(".new")
    try:
        aside.write_text(json.dumps({"at": time.time(), **relay.memory()}, separators=(",", ":")))
        aside.replace(path)
    except OSError as error:  # a full disk must not end the pusher
        log.warning("what happened could not be kept: %s", error)


def recall(path: Path, now: float) -> Relay:
    """A relay that knows what the last one knew, if there was one lately."""
    relay = Relay(now)
    try:
        memory = json.loads(path.read_text())
        if now - memory["at"] < STALE_S:
            relay.recall(memory)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("began without what happened before: %s", error)
        return Relay(now)
    return relay
