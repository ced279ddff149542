"""What happened lately, the latest last: ends of requests, changes of workers, deploys and rollbacks. PURE."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from contracts.events import Release, Serves

State = dict[str, Any]

RELEASES_KEPT = 20

SERVING = frozenset({"serving", "rolled back"})
"""States of the release that serves clients."""

REPLACED = "replaced"
"""State of a release that served until another took its place."""


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


class Releases:
    """The last releases of all hosts, the latest last. Each host has its own, one of which serves there."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, int, float], State] = OrderedDict()
        self._changed: set[tuple[str, int, float]] = set()

    def hear(self, event: Release, host: str = "") -> None:
        """Note how far a host's release is. Only one runs there, so another that ran was killed; only one serves."""
        for key, state in list(self._known.items()):
            if key == (host, event.number, event.began) or state["host"] != host:
                continue
            if state["state"] == "running":
                self._keep({**state, "state": "interrupted"})
            elif state["state"] in SERVING and event.state in SERVING:
                self._keep({**state, "state": REPLACED})
        known = self._known.get((host, event.number, event.began), {})
        kept = {"serves": known["serves"]} if "serves" in known else {}
        self._keep({**_state(msgspec.to_builtins(event)), "host": host, "state": event.state, **kept})

    def serves(self, serves: Serves, host: str = "") -> None:
        """Note the model that a host's release serves, as one of its workers reports it."""
        served = msgspec.to_builtins(serves)
        for state in list(self._known.values()):
            current = state["state"] == "running" or state["state"] in SERVING
            here = (state["host"], state["number"]) == (host, serves.release)
            if current and here and state.get("serves") != served:
                self._keep({**state, "serves": served})

    def news(self) -> list[State]:
        """Return the releases that changed since the last call."""
        changed, self._changed = self._changed, set()
        return [state for key, state in self._known.items() if key in changed]

    def states(self) -> list[State]:
        """Return all of them."""
        return list(self._known.values())

    def recall(self, states: Iterable[State]) -> None:
        """Restore the memory of the last process."""
        for state in states:
            self._keep(_state(state))
        self._changed.clear()

    def _keep(self, state: State) -> None:
        key = (state["host"], state["number"], state["began"])  # one that is rolled back to has its number again
        self._known[key] = state
        self._changed.add(key)
        while len(self._known) > RELEASES_KEPT:
            self._known.popitem(last=False)


def _by_number(kinds: Mapping[str, deque[State]]) -> list[State]:
    return sorted((state for kind in kinds.values() for state in kind), key=lambda state: int(state["number"]))


def _state(release: State) -> State:
    """Return a release as browsers get it: `color`, whatever spelling events and earlier versions' memory have."""
    return {"host": "", **{("color" if name == "colour" else name): value for name, value in release.items()}}
