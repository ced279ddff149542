"""Releases as the pusher knows them: the last deploys and rollbacks, whole. PURE."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import msgspec

from pusher.events import Release

KEPT = 20


class Releases:
    """The last ones, the latest last."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, float], dict[str, Any]] = OrderedDict()
        self._changed: set[tuple[int, float]] = set()

    def hear(self, event: Release) -> None:
        """One is this far. There is one at a time, so another that ran was killed."""
        for key, state in self._known.items():
            if state.get("state", "running") == "running" and key != (event.number, event.began):
                state["state"] = "interrupted"
                self._changed.add(key)
        self._keep({"state": event.state, **msgspec.to_builtins(event)})

    def news(self) -> list[dict[str, Any]]:
        """Those that changed since the last call."""
        changed, self._changed = self._changed, set()
        return [state for key, state in self._known.items() if key in changed]

    def states(self) -> list[dict[str, Any]]:
        """All of them."""
        return list(self._known.values())

    def recall(self, states: Iterable[dict[str, Any]]) -> None:
        """Take over from the last life."""
        for state in states:
            self._keep(state)
        self._changed.clear()

    def _keep(self, state: dict[str, Any]) -> None:
        key = (state["number"], state["began"])  # a release that is rolled back to has its number again
        self._known[key] = state
        self._changed.add(key)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
