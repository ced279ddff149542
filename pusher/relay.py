"""Frames of workers -> deltas and snapshots for browsers. PURE: no sockets, no clock; `now` is unix seconds.

Laws:
1. News goes out only at a `tick`, four a second, however often a request is heard of.
2. A delta carries the next sequence number. A snapshot is made with a delta and carries its number: it holds all that
   the deltas up to this one held, and nothing of later ones. A browser that misses a number asks for a snapshot.
3. A frame costs the same however many browsers listen, and memory is bounded whatever comes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from contracts.events import Accepted, Breaker, Event, Frame, Progress, Pulse, Rejected, Release, Source, Worker
from pusher.figures import Figures
from pusher.history import History, Releases, State
from pusher.runs import ENDED, IN_DELTA, Run, Runs, kind_of
from pusher.workers import WorkerEvents, Workers

TICK_S = 0.25

AWAY_S = 2.0
"""A longer time between two ticks means that this process, or the machine, stood still."""

POINT_S = 1.0

MOST_RUNNING = 5_000
"""Most running requests that are followed at once; events of others are counted as `ignored`."""


@dataclass(frozen=True, slots=True)
class Update:
    """News of one request, for its followers."""

    id: str
    owner: str
    state: dict[str, Any]


class Relay:
    """The pusher's state."""

    def __init__(self, now: float, salt: str = "") -> None:
        self.runs = Runs(salt)
        self.workers = Workers()
        self.figures = Figures()
        self.ended = History(ENDED, IN_DELTA)
        self.worker_events = WorkerEvents()
        self.releases = Releases()
        self.seen = Counter({"frames": 0, "events": 0, "malformed": 0, "newer": 0, "ignored": 0, "refused": 0})
        """Frames, events, and what was wrong with some; all of it is in `counts`."""
        self.seq = 0
        self._ends: list[Update] = []
        """Ends since the last tick, for followers."""
        self._ended_shown: dict[str, str] = {}
        """Requests that ended since then and that dashboards list as running: key -> status."""
        self._next_point = now + POINT_S
        self._ticked = now
        self._snapshot = self._all(now)

    def take(self, frame: Frame, now: float) -> None:
        """Take in a worker's frame."""
        self.seen["frames"] += 1
        self.seen["events"] += len(frame.events)
        if not all(isinstance(event, Release) for event in frame.events):  # those come from a command
            self.workers.hear(frame.source, frame.seq, now)
        for event in frame.events:
            self._take(frame.source, event, now)

    def _take(self, source: Source, event: Event, now: float) -> None:
        if isinstance(event, Breaker):
            self.worker_events.note(source, f"breaker {event.state}", now)  # the pulse has the state
        elif isinstance(event, Worker | Pulse):
            if self.workers.update(source, event):
                self.worker_events.became(source, event.state, now)
            if event.state == "down":
                self._lose(self.runs.of({source.id}), now)
            if isinstance(event, Pulse) and event.serves:
                self.releases.serves(event.serves, source.host)
        elif isinstance(event, Release):
            self.releases.hear(event, source.host)
        elif isinstance(event, Accepted | Progress):
            if len(self.runs.running) < MOST_RUNNING or self.runs.key_of(source.id, event) in self.runs.running:
                self.runs.hear(source.id, event, now)
            else:
                self.seen["ignored"] += 1
        elif isinstance(event, Rejected):
            state = self.runs.ended(source.id, event, now)
            # Without a key nobody can end what others follow, nor with an id that another request has.
            followed = event.code != "unauthorized" and state["key"] not in self.runs.running
            self._end(None, event.owner, state, now, followed=followed)
        else:
            run, state = self.runs.end(source.id, event, now)
            self._end(run, event.owner, state, now)

    def tick(self, now: float) -> tuple[list[Update], dict[str, Any] | None]:
        """Return what is new: for followers of single requests, and for dashboards (None when nothing is)."""
        if now - self._ticked > AWAY_S:  # the silence was ours
            for worker in self.workers.known.values():
                worker.heard = now
            for run in self.runs.running.values():
                run.heard = now
        self._ticked = now
        lost, gone = self.workers.review(now)
        for source in lost:
            self.worker_events.note(source, "lost", now)
        self._lose(self.runs.of({source.id for source in lost}), now)
        self._lose(self.runs.silent(now), now)
        updates, running = self._running_news()
        updates += self._ends
        news = {
            "running": running,
            "ended": self._ended_shown,
            "recent": self.ended.news(),
            "workers": self.workers.states(changed_only=True),
            "gone": gone,
            "events": self.worker_events.news(),
            "releases": self.releases.news(),
        }
        delta: dict[str, Any] = {name: new for name, new in news.items() if new}
        self._ends, self._ended_shown = [], {}
        if now >= self._next_point:
            self._next_point = now + POINT_S
            delta["point"] = self.figures.add_point(self.workers.pulses(), now)
        if not delta:
            return updates, None
        self.seq += 1
        self._snapshot = self._all(now)
        return updates, {"seq": self.seq, "at": round(now, 3), "counts": self._snapshot["counts"], **delta}

    def _running_news(self) -> tuple[list[Update], list[dict[str, Any]]]:
        """Return requests that moved: for their followers, and those of them that dashboards list."""
        shown = {run.key for run in self.runs.shown()}
        updates, running = [], []
        for run in self.runs.running.values():
            if run.changed:
                updates.append(Update(run.id, run.owner, run.state()))
            if run.key in shown and (run.changed or not run.announced):
                running.append(run.state())
                run.announced = True
            run.changed = False
        return updates, running

    def snapshot(self) -> dict[str, Any]:
        """Return all that a dashboard shows, as of the last delta."""
        return self._snapshot

    def _all(self, now: float) -> dict[str, Any]:
        return {
            "seq": self.seq,
            "at": round(now, 3),
            "counts": self.counts(),
            "running": [run.state() for run in self.runs.shown()],
            **self._lists(),
        }

    def _lists(self) -> dict[str, Any]:
        """Return what both snapshots and the memory hold."""
        return {
            "recent": self.ended.states(),
            "workers": self.workers.states(),  # in the memory for `reranking status`
            "points": list(self.figures.points),
            "events": self.worker_events.states(),
            "releases": self.releases.states(),
        }

    def counts(self) -> dict[str, Any]:
        """Return totals, and what was lost on the way."""
        kinds: Counter[str] = Counter()
        for status, count in self.figures.totals.items():
            kinds[kind_of(status)] += count
        return {
            "running": len(self.runs.running),
            "ended": dict(self.figures.totals),
            "kinds": kinds,
            **self.seen,
            "lost_frames": self.workers.lost_frames,
            "dropped_events": self.workers.dropped_events,
        }

    def memory(self) -> dict[str, Any]:
        """Return what the next process should know; workers report themselves and running requests to it."""
        return {
            "salt": self.runs.salt,
            "ended": self.runs.memory(),
            "totals": dict(self.figures.totals),
            **self._lists(),
        }

    def recall(self, memory: dict[str, Any]) -> None:
        """Restore the memory of the last process. Raises whatever a damaged one raises; use a new relay then."""
        self.runs.salt = str(memory["salt"])
        for owner, state in memory["ended"]:
            self.runs.remember(str(owner), state)
        self.figures.points.extend(memory["points"])
        self.figures.totals.update(memory["totals"])
        self.ended.recall(memory["recent"])
        self.worker_events.recall(memory["events"])
        self.releases.recall(memory["releases"])
        self._snapshot = self._all(self._snapshot["at"])

    def _lose(self, runs: Iterable[Run], now: float) -> None:
        for run in runs:
            self._end(run, run.owner, self.runs.lose(run, now), now)

    def _end(self, run: Run | None, owner: str, state: State, now: float, *, followed: bool = True) -> None:
        self.ended.add(state)
        self.figures.count(state, now)
        if followed:
            self._ends.append(Update(state["id"], owner, state))
        if run is not None and run.announced:
            self._ended_shown[run.key] = state["status"]
