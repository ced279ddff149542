"""What a restarted pusher goes on with: a small file, written beside the work, read at the start."""

from __future__ import annotations

import json
import logging
import secrets
from pathlib import Path

from pusher import clock
from pusher.relay import Relay

log = logging.getLogger(__name__)

SAVE_S = 1.0

STALE_S = 600.0
"""Older than this, it is another day's story."""


def save(relay: Relay, path: Path) -> None:
    """Write it aside, then into place: a kill leaves the old one or the new one.

    Raises:
        OSError: there is no room, or no directory.
    """
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps({"at": clock.now(), **relay.memory()}, separators=(",", ":")))
    aside.replace(path)


def recall(path: Path, now: float) -> Relay:
    """A relay that knows what the last one knew, if there was one lately."""
    relay = Relay(now, _salt())
    try:
        memory = json.loads(path.read_text())
        if now - memory["at"] < STALE_S:
            relay.recall(memory)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("began without what happened before: %s", error)
        return Relay(now, _salt())
    return relay


def _salt() -> str:
    return secrets.token_hex(16)
