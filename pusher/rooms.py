"""Names of Socket.IO rooms. PURE.

A request's room is split by who listens: its owner's room, and the room of those who may see everything. News goes to
both; so nobody hears of a request that isn't theirs, even if they followed its id before it began.
"""

from __future__ import annotations

from pusher.access import Viewer

OVERVIEW = "overview"

_EVERYTHING = "*"


def room_for(request_id: str, viewer: Viewer) -> str:
    """Where a viewer listens to a request."""
    return f"request:{request_id}/{_EVERYTHING if viewer.operator else viewer.owner}"


def rooms_of(request_id: str, owner: str) -> list[str]:
    """Where news of a request goes."""
    return [f"request:{request_id}/{owner}", f"request:{request_id}/{_EVERYTHING}"]
