"""Ended requests that dashboards list. PURE.

Each kind has room of its own, so that a flood of one kind pushes no other out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from contracts.events import OK

State = dict[str, Any]

KEPT = {"done": 120, "failed": 60, "refused": 40, "left": 40}
"""Kind -> how many are kept. `pusher/dashboard/store.js` has the same numbers."""

IN_DELTA = {"done": 20, "failed": 20, "refused": 10, "left": 10}
"""Kind -> most that one delta tells, the latest; the totals count all."""

REFUSED = frozenset(
    {
        "invalid_request",
        "payload_too_large",
        "unsupported_encoding",
        "unauthorized",
        "not_found",
        "model_not_found",
        "method_not_allowed",
        "rate_limited",
    }
)
"""Codes of errors that are the caller's."""


def kind_of(status: str) -> str:
    """Return which kind of end a status is."""
    if status == OK:
        return "done"
    if status == "cancelled":
        return "left"
    return "refused" if status in REFUSED else "failed"


class Ended:
    """The latest of each kind."""

    def __init__(self) -> None:
        self._kept = {kind: deque[State](maxlen=most) for kind, most in KEPT.items()}
        self._news = {kind: deque[State](maxlen=most) for kind, most in IN_DELTA.items()}
        self._next_number = 0

    def add(self, state: State) -> None:
        """Number a request that ended, and keep it for the next delta."""
        state["number"] = self._next_number  # one request id can end many times
        state["kind"] = kind_of(state["status"])
        self._next_number += 1
        self._news[state["kind"]].append(state)

    def news(self) -> list[State]:
        """Return what the next delta tells. Only that is listed: a snapshot must hold what the deltas told."""
        news = sorted((state for kind in self._news.values() for state in kind), key=_number)
        for state in news:
            self._kept[state["kind"]].append(state)
        for kind in self._news.values():
            kind.clear()
        return news

    def states(self) -> list[State]:
        """Return all that deltas have told and that is still kept, oldest first."""
        return sorted((state for kind in self._kept.values() for state in kind), key=_number)

    def recall(self, states: Iterable[State]) -> None:
        """Take over from the last life."""
        for state in states:
            self._kept[state["kind"]].append(state)
            self._next_number = max(self._next_number, state["number"] + 1)


def _number(state: State) -> int:
    number: int = state["number"]
    return number
