"""What became of workers and of their breakers, for those who look after the service. PURE."""

from __future__ import annotations

from collections import deque
from typing import Any

from pusher.events import Breaker, Source, Worker

KEPT = 50

Happening = dict[str, Any]


class Happenings:
    """The latest of them, oldest first."""

    def __init__(self) -> None:
        self.kept: deque[Happening] = deque(maxlen=KEPT)
        self._news: list[Happening] = []

    def hear(self, source: Source, event: Worker | Breaker, now: float) -> None:
        """A worker tells of itself."""
        if isinstance(event, Breaker):
            self.note(source, f"breaker {event.state}", now)
        else:
            self.note(source, event.state, now)

    def note(self, source: Source, what: str, now: float) -> None:
        """Something happened to a worker."""
        happening = {"at": round(now, 3), "worker": source.id, "pid": source.pid, "colour": source.colour, "what": what}
        self.kept.append(happening)
        self._news = [*self._news, happening][-KEPT:]

    def news(self) -> list[Happening]:
        """Those since the last call."""
        news, self._news = self._news, []
        return news
