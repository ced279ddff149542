"""Requests as the pusher knows them: running, and ended a while ago. PURE; times are unix seconds, given."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from contracts.events import OK, Accepted, Cancelled, Expired, Finished, Progress, Rejected, Shed

KEPT = 300
"""Ended requests that are remembered for followers who come late."""

SHOWN = 60
"""Running requests that dashboards list, the oldest; the others are counted."""

SILENT_S = 6.0
"""A worker tells every running request once a second; one that is silent for this long has ended unseen."""

LOST = "lost"
"""Status of a request whose end nobody told: its worker died, or the event was dropped."""

End = Finished | Shed | Expired | Cancelled


@dataclass(slots=True, eq=False)
class Run:
    """A running request."""

    key: str
    """Unique to worker, owner and request id."""
    id: str
    owner: str
    caller: str
    dialect: str
    worker: str
    pairs: int
    scored: int
    began: float
    heard: float
    query: str = ""
    changed: bool = True
    announced: bool = False
    """Dashboards know of it."""

    def state(self) -> dict[str, Any]:
        """Return it as browsers get it: the caller's label, not the owner."""
        state = {
            **_named(self, key=self.key, caller=self.caller, worker=self.worker),
            "scored": self.scored,
            "began": round(self.began, 3),
            "status": "running",
        }
        return {**state, "query": self.query} if self.query else state


class Runs:
    """All of them.

    Args:
        salt: keeps the labels of callers from being compared with hashes of guessed API keys.
    """

    def __init__(self, salt: str = "") -> None:
        self.salt = salt
        self.running: dict[str, Run] = {}
        self._ended: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()
        """Owner and request id -> the last end, for late followers."""

    def caller_of(self, owner: str) -> str:
        """Return a short label of an owner, the same for all of its requests; the owner can't be got back from it."""
        return hashlib.sha256(f"{self.salt}/{owner}".encode()).hexdigest()[:12] if owner else ""

    def key_of(self, source: str, event: Accepted | Progress | End | Rejected) -> str:
        """Return the key of an event's request. Another owner's request with the same id has another one."""
        return "/".join(filter(None, (source, self.caller_of(event.owner), event.id)))

    def knows(self, source: str, event: Accepted | Progress) -> bool:
        """Whether this request is known to run."""
        return self.key_of(source, event) in self.running

    def hear(self, source: str, event: Accepted | Progress, now: float) -> Run:
        """A request runs, and is this far."""
        key = self.key_of(source, event)
        run = self.running.get(key)
        if run is None or isinstance(event, Accepted):
            age_s = event.age_ms / 1000 if isinstance(event, Progress) else 0.0
            announced = run is not None and run.announced  # dashboards have that row, and must hear of its end
            caller = self.caller_of(event.owner)
            run = Run(key, event.id, event.owner, caller, event.dialect, source, event.pairs, 0, now - age_s, now)
            run.announced = announced
            self.running[key] = run
        if isinstance(event, Accepted):
            run.query = event.query
        elif event.scored != run.scored:
            run.scored, run.changed = event.scored, True
        run.heard = now
        return run

    def end(self, source: str, event: End, now: float) -> tuple[Run | None, dict[str, Any]]:
        """A request ended; returns what ran, unless nobody told of that, and its last state."""
        state = {**self._named(source, event), "ended": round(now, 3), **_outcome(event)}
        run = self.running.pop(state["key"], None)
        if run is not None and run.query:
            state["query"] = run.query
        self.remember(event.owner, state)
        return run, state

    def reject(self, source: str, event: Rejected, now: float) -> dict[str, Any]:
        """Return the state of a request that was never admitted. It ends none that runs under the same id."""
        return {
            **self._named(source, event),
            "ended": round(now, 3),
            "status": event.code,
            "scored": 0,
            "latency_ms": event.latency_ms,
            "http_status": event.http_status,
            **_told(event, ("field",)),
        }

    def lose(self, run: Run, now: float) -> dict[str, Any]:
        """A request's end was not told."""
        self.running.pop(run.key, None)
        latency_ms = round((now - run.began) * 1000, 1)
        state = {**run.state(), "status": LOST, "ended": round(now, 3), "latency_ms": latency_ms}
        self.remember(run.owner, state)
        return state

    def excuse(self, now: float) -> None:
        """Count silence from now on: nobody listened before."""
        for run in self.running.values():
            run.heard = now

    def silent(self, now: float) -> list[Run]:
        """Runs that must have ended unseen."""
        return [run for run in self.running.values() if now - run.heard > SILENT_S]

    def remember(self, owner: str, state: dict[str, Any]) -> None:
        """Keep an end for those who come late."""
        name = (owner, state["id"])
        self._ended[name] = state
        self._ended.move_to_end(name)
        while len(self._ended) > KEPT:
            self._ended.popitem(last=False)

    def shown(self) -> Iterator[Run]:
        """Those that dashboards list."""
        return islice(self.running.values(), SHOWN)

    def find(self, request_id: str, may_see: Callable[[str], bool]) -> list[dict[str, Any]]:
        """Return the requests with this id whose owner may be seen: those that run, else the last end of each owner."""
        running = [run.state() for run in self.running.values() if run.id == request_id and may_see(run.owner)]
        ended = [state for (owner, name), state in self._ended.items() if name == request_id and may_see(owner)]
        return running or ended

    def memory(self) -> list[tuple[str, dict[str, Any]]]:
        """What a restarted pusher should know again: owner and state, oldest first."""
        return [(owner, state) for (owner, _), state in self._ended.items()]

    def _named(self, source: str, event: End | Rejected) -> dict[str, Any]:
        return _named(event, key=self.key_of(source, event), caller=self.caller_of(event.owner), worker=source)


def _named(request: Run | End | Rejected, *, key: str, caller: str, worker: str) -> dict[str, Any]:
    """Return what every state begins with."""
    whose = {"caller": caller} if caller else {}
    of = {"dialect": request.dialect, "worker": worker, "pairs": request.pairs}
    return {"key": key, "id": request.id, **whose, **of}


def _told(event: Finished | Rejected, names: tuple[str, ...]) -> dict[str, Any]:
    """Return these fields of an event, where they say something."""
    return {name: value for name in names if (value := getattr(event, name))}


def _outcome(event: End) -> dict[str, Any]:
    if isinstance(event, Finished):
        return {
            "status": event.status,
            "scored": event.pairs if event.status == OK else 0,
            "latency_ms": event.latency_ms,
            "truncated": event.truncated,
            "cached": event.cached,
            "degraded": event.degraded,
            **_told(event, ("field", "tokens", "queue_ms", "tokenise_ms", "score_ms")),
        }
    if isinstance(event, Shed):
        return {"status": "shed", "reason": event.reason, "scored": 0, "latency_ms": 0.0}
    status = "expired" if isinstance(event, Expired) else "cancelled"
    return {"status": status, "scored": event.scored, "latency_ms": event.latency_ms}
