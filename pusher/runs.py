"""Requests as the pusher knows them: running, and ended. PURE; times are unix seconds, given."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import msgspec

from contracts.events import OK, Accepted, Expired, Finished, Progress, Rejected, Shed
from pusher.history import State

KEPT = 300
"""Ended requests that are kept for followers that come late."""

SHOWN = 60
"""Running requests that dashboards list, the oldest; the others are counted."""

SILENT_S = 6.0
"""A worker reports every running request once a second; one that is silent for this long has ended unseen."""

LOST = "lost"
"""Status of a request whose end never came: its worker died, or the event was dropped."""

ENDED = {"done": 120, "failed": 60, "refused": 40, "left": 40}
"""Kind -> ended requests that dashboards list, so that a flood of one kind pushes no other out.

`pusher/dashboard/store.js` has the same numbers.
"""

IN_DELTA = {"done": 20, "failed": 20, "refused": 10, "left": 10}
"""Kind -> most ended requests that one delta lists, the latest; the totals count all."""

REFUSED = frozenset(
    {
        "invalid_request",
        "payload_too_large",
        "unsupported_encoding",
        "unauthorized",
        "not_found",
        "model_not_found",
        "method_not_allowed",
        "rate_limited",
    }
)
"""Codes of errors that are the caller's."""

TOLD = (
    *("scored", "latency_ms", "reason", "http_status", "field", "truncated", "cached", "degraded"),
    *("tokens", "queue_ms", "tokenise_ms", "score_ms"),
)
"""What browsers get of the event that ends a request, where it is there and not empty."""

ALWAYS_TOLD = {"truncated": 0, "cached": 0, "degraded": False}
"""What they get of every answer, empty or not."""

End = Finished | Shed | Expired


def kind_of(status: str) -> str:
    """Return the kind of end that a status is."""
    if status == OK:
        return "done"
    if status == "cancelled":
        return "left"
    return "refused" if status in REFUSED else "failed"


@dataclass(slots=True, eq=False)
class Run:
    """A running request."""

    key: str
    """Unique to worker, owner and request id."""
    id: str
    owner: str
    worker: str
    named: State
    """What all of its states begin with."""
    began: float
    heard: float
    scored: int = 0
    query: str = ""
    changed: bool = True
    announced: bool = False
    """Whether dashboards list it."""

    def state(self) -> State:
        """Return it as browsers get it: with the caller's label, not the owner."""
        state = {**self.named, "scored": self.scored, "began": round(self.began, 3), "status": "running"}
        return {**state, "query": self.query} if self.query else state


class Runs:
    """All running requests, and the last ended ones.

    Args:
        salt: keeps the labels of callers from being compared with hashes of guessed API keys.
    """

    def __init__(self, salt: str = "") -> None:
        self.salt = salt
        self.running: dict[str, Run] = {}
        self._ended: OrderedDict[tuple[str, str], State] = OrderedDict()
        """Owner and request id -> the last end, for late followers."""

    def caller_of(self, owner: str) -> str:
        """Return a short label of an owner, the same for all of its requests; the owner can't be got back from it."""
        return _label(self.salt, owner) if owner else ""

    def key_of(self, source: str, event: Accepted | Progress | End | Rejected) -> str:
        """Return the key of an event's request. Another owner's request with the same id has another one."""
        return "/".join(filter(None, (source, self.caller_of(event.owner), event.id)))

    def hear(self, source: str, event: Accepted | Progress, now: float) -> Run:
        """Note that a request runs, and how far it is."""
        key = self.key_of(source, event)
        run = self.running.get(key)
        if run is None or isinstance(event, Accepted):
            age_s = event.age_ms / 1000 if isinstance(event, Progress) else 0.0
            announced = run is not None and run.announced  # dashboards have that row, and must hear of its end
            named = self._named(source, event)
            run = Run(key, event.id, event.owner, source, named, now - age_s, now, announced=announced)
            self.running[key] = run
        if isinstance(event, Accepted):
            run.query = event.query
        elif event.scored != run.scored:
            run.scored, run.changed = event.scored, True
        run.heard = now
        return run

    def end(self, source: str, event: End, now: float) -> tuple[Run | None, State]:
        """End a request; return what ran, None where nobody reported that, and its last state."""
        state = self.ended(source, event, now)
        run = self.running.pop(state["key"], None)
        if run is not None and run.query:
            state["query"] = run.query
        self.remember(event.owner, state)
        return run, state

    def ended(self, source: str, event: End | Rejected, now: float) -> State:
        """Return the last state of a request. One that was rejected ends none that runs under the same id."""
        told = msgspec.to_builtins(event)
        status = told.get("status") or told.get("code") or told["type"]
        return {
            **self._named(source, event),
            "scored": event.pairs if status == OK else 0,
            "latency_ms": 0.0,
            **(ALWAYS_TOLD if isinstance(event, Finished) else {}),
            **{name: value for name in TOLD if (value := told.get(name))},
            **_end(status, now),
        }

    def lose(self, run: Run, now: float) -> State:
        """End a request whose end was not reported; return its last state."""
        self.running.pop(run.key, None)
        latency_ms = round((now - run.began) * 1000, 1)
        state = {**run.state(), "latency_ms": latency_ms, **_end(LOST, now)}
        self.remember(run.owner, state)
        return state

    def of(self, workers: Collection[str]) -> list[Run]:
        """Return the requests that these workers run."""
        return [run for run in self.running.values() if run.worker in workers]

    def silent(self, now: float) -> list[Run]:
        """Return the requests that must have ended unseen."""
        return [run for run in self.running.values() if now - run.heard > SILENT_S]

    def remember(self, owner: str, state: State) -> None:
        """Keep an end for followers that come late."""
        name = (owner, state["id"])
        self._ended[name] = state
        self._ended.move_to_end(name)
        while len(self._ended) > KEPT:
            self._ended.popitem(last=False)

    def shown(self) -> Iterator[Run]:
        """Return the requests that dashboards list."""
        return islice(self.running.values(), SHOWN)

    def find(self, request_id: str, may_see: Callable[[str], bool]) -> list[State]:
        """Return the requests with this id whose owner may be seen: those that run, else the last end of each owner."""
        running = [run.state() for run in self.running.values() if run.id == request_id and may_see(run.owner)]
        ended = [state for (owner, name), state in self._ended.items() if name == request_id and may_see(owner)]
        return running or ended

    def memory(self) -> list[tuple[str, State]]:
        """Return the ends that a restarted pusher should know: owner and state, oldest first."""
        return [(owner, state) for (owner, _), state in self._ended.items()]

    def _named(self, source: str, event: Accepted | Progress | End | Rejected) -> State:
        """Return what every state begins with."""
        caller = self.caller_of(event.owner)
        whose = {"caller": caller} if caller else {}
        of = {"dialect": event.dialect, "worker": source, "pairs": event.pairs}
        return {"key": self.key_of(source, event), "id": event.id, **whose, **of}


@lru_cache(maxsize=1000)
def _label(salt: str, owner: str) -> str:
    return hashlib.sha256(f"{salt}/{owner}".encode()).hexdigest()[:12]


def _end(status: str, now: float) -> State:
    return {"status": status, "kind": kind_of(status), "ended": round(now, 3)}
