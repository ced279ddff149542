"""What happened, the latest of each kind, oldest first. PURE."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

State = dict[str, Any]


class History:
    """States in the order of their numbers, with bounds for each kind, so that a flood of one pushes no other out.

    Args:
        kept: kind -> states that snapshots list. States without a `kind` have the empty one.
        in_delta: kind -> most states that one delta lists, the latest. No snapshot lists what no delta did.
    """

    def __init__(self, kept: Mapping[str, int], in_delta: Mapping[str, int]) -> None:
        self._kept = {kind: deque[State](maxlen=most) for kind, most in kept.items()}
        self._news = {kind: deque[State](maxlen=most) for kind, most in in_delta.items()}
        self._next_number = 0

    def add(self, state: State) -> None:
        """Keep a state for the next delta, with a number of its own: two can be alike in all else."""
        state["number"] = self._next_number
        self._next_number += 1
        self._news[state.get("kind", "")].append(state)

    def news(self) -> list[State]:
        """Return what the next delta lists: the latest since the last call."""
        news = _by_number(self._news)
        self._keep(news)
        for kind in self._news.values():
            kind.clear()
        return news

    def states(self) -> list[State]:
        """Return all of them; for a snapshot, after `news`."""
        return _by_number(self._kept) + _by_number(self._news)

    def recall(self, states: Iterable[State]) -> None:
        """Restore the memory of the last process."""
        self._keep(states)
        self._next_number = max((state["number"] for state in self.states()), default=-1) + 1

    def _keep(self, states: Iterable[State]) -> None:
        for state in states:
            self._kept[state.get("kind", "")].append(state)


def _by_number(kinds: Mapping[str, deque[State]]) -> list[State]:
    return sorted((state for kind in kinds.values() for state in kind), key=lambda state: int(state["number"]))
