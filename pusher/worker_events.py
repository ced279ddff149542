"""What became of workers and of their breakers, for operators. PURE."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from contracts.events import Source

KEPT = 50

WorkerEvent = dict[str, Any]


class WorkerEvents:
    """The latest of them, oldest first."""

    def __init__(self) -> None:
        self.kept: deque[WorkerEvent] = deque(maxlen=KEPT)
        self._news: deque[WorkerEvent] = deque(maxlen=KEPT)
        self._next_number = 0

    def became(self, source: Source, state: str, now: float) -> None:
        """Note a worker's new state, unless the last life did: a worker that was ready then is not ready anew."""
        states = (told["what"] for told in reversed(self.kept) if told["worker"] == source.id)
        if next((what for what in states if not what.startswith("breaker ")), None) != state:
            self.note(source, state, now)

    def note(self, source: Source, what: str, now: float) -> None:
        """Note that something happened to a worker."""
        event = {
            "number": self._next_number,  # two can be alike in all else
            "at": round(now, 3),
            "worker": source.id,
            "pid": source.pid,
            "color": source.color,
            "what": what,
        }
        self._next_number += 1
        self.kept.append(event)
        self._news.append(event)

    def news(self) -> list[WorkerEvent]:
        """Return those since the last call."""
        news = list(self._news)
        self._news.clear()
        return news

    def recall(self, events: Iterable[WorkerEvent]) -> None:
        """Take over from the last life."""
        self.kept.extend(events)
        self._next_number = max((event["number"] for event in self.kept), default=-1) + 1
