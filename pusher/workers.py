"""Workers as the pusher knows them, and what became of them and of their breakers. PURE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from contracts.events import Pulse, Source, Worker
from pusher.history import History

LOST_S = 3.5
"""A worker pulses once a second; one that is silent for this long is lost."""

FORGET_S = 20.0
"""Lost and leaving workers are shown for this long."""

EVENTS_KEPT = 50


@dataclass(slots=True, eq=False)
class _Known:
    source: Source
    state: str
    """Empty until the worker reports it."""
    heard: float
    next_seq: int
    pulse: Pulse | None = None
    changed: bool = True

    @property
    def lives(self) -> bool:
        return self.state not in {"lost", "down"}


class Workers:
    """All workers, of one release slot or of two."""

    def __init__(self) -> None:
        self.known: dict[str, _Known] = {}
        self.lost_frames = 0

    def hear(self, source: Source, seq: int, now: float) -> None:
        """Note that a frame came."""
        known = self.known.get(source.id)
        if known is None:
            known = self.known[source.id] = _Known(source, "", now, seq)
        # Counted from the first frame that we saw: what came before we lived is not lost.
        self.lost_frames += max(0, seq - known.next_seq)
        known.next_seq, known.heard = seq + 1, now

    def update(self, source: Source, event: Worker | Pulse) -> bool:
        """Note a worker's state; return whether it is a new one. A pulse repeats it, should the event be lost."""
        known = self.known[source.id]
        differs = event.state != known.state
        known.state, known.changed = event.state, True
        if isinstance(event, Pulse):
            known.pulse = event
        return differs

    def review(self, now: float) -> tuple[list[Source], list[str]]:
        """Return the workers that were lost just now, and the ids of those that are forgotten."""
        lost = [known for known in self.known.values() if known.lives and now - known.heard > LOST_S]
        for known in lost:
            known.state, known.changed = "lost", True
        gone = [key for key, known in self.known.items() if now - known.heard > FORGET_S]
        for key in gone:
            del self.known[key]
        return [known.source for known in lost], gone

    def pulses(self) -> list[Pulse]:
        """Return the last pulse of each worker that lives."""
        return [known.pulse for known in self.known.values() if known.pulse and known.lives]

    def states(self, *, changed_only: bool = False) -> list[dict[str, Any]]:
        """Return them as browsers get them."""
        chosen = [known for known in self.known.values() if known.changed or not changed_only]
        for known in chosen if changed_only else ():
            known.changed = False
        return [
            {
                **(msgspec.to_builtins(known.pulse) if known.pulse else {}),
                "id": known.source.id,
                **_named(known.source),
                "state": known.state or "loading",
            }
            for known in chosen
        ]

    @property
    def dropped_events(self) -> int:
        """Events that workers dropped."""
        return sum(known.pulse.dropped_events for known in self.known.values() if known.pulse)


class WorkerEvents(History):
    """The latest changes of workers and of their breakers, for operators."""

    def __init__(self) -> None:
        super().__init__({"": EVENTS_KEPT}, {"": EVENTS_KEPT})

    def became(self, source: Source, state: str, now: float) -> None:
        """Note a worker's new state, unless the last process did: a worker that was ready then is not ready anew."""
        states = (event["what"] for event in reversed(self.states()) if event["worker"] == source.id)
        if next((what for what in states if not what.startswith("breaker ")), None) != state:
            self.note(source, state, now)

    def note(self, source: Source, what: str, now: float) -> None:
        """Note that something happened to a worker."""
        self.add({"at": round(now, 3), "worker": source.id, **_named(source), "what": what})


def _named(source: Source) -> dict[str, Any]:
    """Return the words by which people know a worker."""
    return {"pid": source.pid, "color": source.color, "host": source.host}
