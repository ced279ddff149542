"""The last deploys and rollbacks, each with all its steps. PURE."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import msgspec

from contracts.events import Release, Serves

KEPT = 20

SERVING = frozenset({"serving", "rolled back"})
"""States of the release that serves clients."""

REPLACED = "replaced"
"""State of a release that served until another took its place."""


class Releases:
    """The last releases, the latest last."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, float], dict[str, Any]] = OrderedDict()
        self._changed: set[tuple[int, float]] = set()

    def hear(self, event: Release) -> None:
        """Note how far a release is. Only one runs at a time, so another that ran was killed; only one serves."""
        for key, state in list(self._known.items()):
            if key == (event.number, event.began):
                continue
            if state["state"] == "running":
                self._keep({**state, "state": "interrupted"})
            elif state["state"] in SERVING and event.state in SERVING:
                self._keep({**state, "state": REPLACED})
        known = self._known.get((event.number, event.began), {})
        kept = {"serves": known["serves"]} if "serves" in known else {}
        self._keep({**_state(msgspec.to_builtins(event)), "state": event.state, **kept})

    def serves(self, serves: Serves) -> None:
        """Note the model that a release serves, as one of its workers reports it."""
        served = msgspec.to_builtins(serves)
        for state in list(self._known.values()):
            current = state["state"] == "running" or state["state"] in SERVING
            if current and state["number"] == serves.release and state.get("serves") != served:
                self._keep({**state, "serves": served})

    def news(self) -> list[dict[str, Any]]:
        """Return the releases that changed since the last call."""
        changed, self._changed = self._changed, set()
        return [state for key, state in self._known.items() if key in changed]

    def states(self) -> list[dict[str, Any]]:
        """Return all of them."""
        return list(self._known.values())

    def recall(self, states: Iterable[dict[str, Any]]) -> None:
        """Restore the memory of the last process."""
        for state in states:
            self._keep(_state(state))
        self._changed.clear()

    def _keep(self, state: dict[str, Any]) -> None:
        key = (state["number"], state["began"])  # a release that is rolled back to has its number again
        self._known[key] = state
        self._changed.add(key)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)


def _state(release: dict[str, Any]) -> dict[str, Any]:
    """Return a release as browsers get it: `color`, whatever spelling events and earlier versions' memory have."""
    return {("color" if name == "colour" else name): value for name, value in release.items()}
