"""What a viewer may see, and the Socket.IO rooms that follow from it. PURE.

Without any keys everybody sees everything. With API keys, one is needed; it sees the requests that were made with it,
and everything where no key is an operator's: of `RERANK_OPERATOR_KEYS`, or marked in the key file. Operators see
everything.

A request's room is split by listener: its owner's room, and the room of operators. News goes to both, so nobody hears
of another owner's request, even after following its id before it began.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from contracts.api_keys import KeyRing
from contracts.events import owner_of

OVERVIEW = "overview"
"""The room of dashboards."""

_EVERYTHING = "*"


@dataclass(frozen=True, slots=True)
class Viewer:
    """A caller that was let in."""

    owner: str
    """Sees the requests of this owner."""
    operator: bool
    """Sees all requests, and the overview."""

    def may_see(self, owner: str) -> bool:
        """Return whether this viewer may see requests of an owner."""
        return self.operator or owner == self.owner


class Access:
    """The keys that are accepted.

    Args:
        keys: all that open the service.
        operators: those that open the pusher alone, and show everything.
    """

    def __init__(self, keys: KeyRing, operators: KeyRing) -> None:
        self._keys = keys
        self._operators = operators

    def viewer(self, presented: Iterable[str]) -> Viewer | None:
        """Return the viewer that presents these keys; None is refused."""
        presented = list(presented)
        has_operators = self._operators.guarded or self._keys.has_operators
        if found := self._operators.find(presented):
            return Viewer(owner_of(found[1]), operator=True)
        if found := self._keys.find(presented):
            return Viewer(owner_of(found[1]), operator=found[0].operator or not has_operators)
        # Without API keys no request has an owner, whatever key its caller sends.
        return None if self._keys.guarded else Viewer("", operator=not has_operators)


def room_for(request_id: str, viewer: Viewer) -> str:
    """Return the room in which a viewer listens to a request."""
    return f"request:{request_id}/{_EVERYTHING if viewer.operator else viewer.owner}"


def rooms_of(request_id: str, owner: str) -> list[str]:
    """Return the rooms to which news of a request goes."""
    return [f"request:{request_id}/{owner}", f"request:{request_id}/{_EVERYTHING}"]
