"""Workers as the pusher knows them. PURE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from contracts.events import Pulse, Source, Worker

LOST_S = 3.5
"""A worker pulses once a second; one that is silent for this long is lost."""

FORGET_S = 20.0
"""Lost and leaving workers are shown for this long."""


@dataclass(slots=True, eq=False)
class _Known:
    source: Source
    state: str
    """Empty until it says it."""
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
        self._known: dict[str, _Known] = {}
        self.lost_frames = 0

    def hear(self, source: Source, seq: int, now: float) -> None:
        """A frame came."""
        known = self._known.get(source.id)
        if known is None:
            known = self._known[source.id] = _Known(source, "", now, seq)
        # Counted from the first frame that we saw: what came before we lived is not lost.
        self.lost_frames += max(0, seq - known.next_seq)
        known.next_seq, known.heard = seq + 1, now

    def update(self, source: Source, event: Worker | Pulse) -> bool:
        """A worker says how it is. Returns whether that is another state; a pulse tells it where the event was lost."""
        known = self._known[source.id]
        differs = event.state != known.state
        known.state, known.changed = event.state, True
        if isinstance(event, Pulse):
            known.pulse = event
        return differs

    def excuse(self, now: float) -> None:
        """Count silence from now on: nobody listened before."""
        for known in self._known.values():
            known.heard = now

    def review(self, now: float) -> tuple[list[Source], list[str]]:
        """Workers that were lost just now, and those to forget."""
        lost = [known for known in self._known.values() if known.lives and now - known.heard > LOST_S]
        for known in lost:
            known.state, known.changed = "lost", True
        gone = [key for key, known in self._known.items() if now - known.heard > FORGET_S]
        for key in gone:
            del self._known[key]
        return [known.source for known in lost], gone

    def gone_down(self, source: Source) -> bool:
        """Whether it said goodbye."""
        return self._known[source.id].state == "down"

    def pulses(self) -> list[Pulse]:
        """Of the workers that live."""
        return [known.pulse for known in self._known.values() if known.pulse and known.lives]

    def states(self, *, changed_only: bool = False) -> list[dict[str, Any]]:
        """As browsers get them."""
        chosen = [known for known in self._known.values() if known.changed or not changed_only]
        for known in chosen if changed_only else ():
            known.changed = False
        return [
            {
                **(msgspec.to_builtins(known.pulse) if known.pulse else {}),
                "id": known.source.id,
                "pid": known.source.pid,
                "color": known.source.color,
                "state": known.state or "loading",
            }
            for known in chosen
        ]

    @property
    def dropped_events(self) -> int:
        """Events that living workers lost on purpose."""
        return sum(known.pulse.dropped_events for known in self._known.values() if known.pulse)
