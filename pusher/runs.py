"""Requests as the pusher knows them: running, and ended. PURE; times are unix seconds, given."""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from contracts.events import OK, Accepted, Expired, Finished, Progress, Rejected, Shed

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

State = dict[str, Any]
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
    caller: str
    dialect: str
    worker: str
    pairs: int
    began: float
    heard: float
    scored: int = 0
    query: str = ""
    changed: bool = True
    announced: bool = False
    """Whether dashboards list it."""

    def state(self) -> State:
        """Return it as browsers get it: with the caller's label, not the owner."""
        state = {
            **_named(self, key=self.key, caller=self.caller, worker=self.worker),
            "scored": self.scored,
            "began": round(self.began, 3),
            "status": "running",
        }
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
        return hashlib.sha256(f"{self.salt}/{owner}".encode()).hexdigest()[:12] if owner else ""

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
            caller = self.caller_of(event.owner)
            run = Run(key, event.id, event.owner, caller, event.dialect, source, event.pairs, now - age_s, now)
            run.announced = announced
            self.running[key] = run
        if isinstance(event, Accepted):
            run.query = event.query
        elif event.scored != run.scored:
            run.scored, run.changed = event.scored, True
        run.heard = now
        return run

    def end(self, source: str, event: End, now: float) -> tuple[Run | None, State]:
        """End a request; return what ran, None where nobody reported that, and its last state."""
        state = {**self._named(source, event), "ended": round(now, 3), **_outcome(event)}
        run = self.running.pop(state["key"], None)
        if run is not None and run.query:
            state["query"] = run.query
        self.remember(event.owner, state)
        return run, state

    def reject(self, source: str, event: Rejected, now: float) -> State:
        """Return the state of a request that was never admitted. It ends none that runs under the same id."""
        return {
            **self._named(source, event),
            "ended": round(now, 3),
            "status": event.code,
            "scored": 0,
            "latency_ms": event.latency_ms,
            "http_status": event.http_status,
            **_present(event, "field"),
        }

    def lose(self, run: Run, now: float) -> State:
        """End a request whose end was not reported; return its last state."""
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

    def _named(self, source: str, event: End | Rejected) -> State:
        return _named(event, key=self.key_of(source, event), caller=self.caller_of(event.owner), worker=source)


class Ended:
    """Ended requests that dashboards list, the latest of each kind."""

    def __init__(self) -> None:
        self._kept = {kind: deque[State](maxlen=most) for kind, most in ENDED.items()}
        self._news = {kind: deque[State](maxlen=most) for kind, most in IN_DELTA.items()}
        self._next_number = 0

    def add(self, state: State) -> None:
        """Keep a request that ended for the next delta, with a number of its own."""
        state["number"] = self._next_number  # one request id can end many times
        state["kind"] = kind_of(state["status"])
        self._next_number += 1
        self._news[state["kind"]].append(state)

    def news(self) -> list[State]:
        """Return what the next delta lists. Only that is kept: a snapshot must hold what the deltas held."""
        news = _by_number(self._news)
        self._keep(news)
        for kind in self._news.values():
            kind.clear()
        return news

    def states(self) -> list[State]:
        """Return all that deltas have listed and that is still kept, oldest first."""
        return _by_number(self._kept)

    def recall(self, states: Iterable[State]) -> None:
        """Restore the memory of the last process."""
        self._keep(states)
        self._next_number = max((state["number"] for state in self.states()), default=-1) + 1

    def _keep(self, states: Iterable[State]) -> None:
        for state in states:
            self._kept[state["kind"]].append(state)


def _by_number(kinds: dict[str, deque[State]]) -> list[State]:
    return sorted((state for kind in kinds.values() for state in kind), key=lambda state: int(state["number"]))


def _named(request: Run | End | Rejected, *, key: str, caller: str, worker: str) -> State:
    """Return what every state begins with."""
    whose = {"caller": caller} if caller else {}
    of = {"dialect": request.dialect, "worker": worker, "pairs": request.pairs}
    return {"key": key, "id": request.id, **whose, **of}


def _present(event: Finished | Rejected, *names: str) -> State:
    """Return these fields of an event, but the empty ones."""
    return {name: value for name in names if (value := getattr(event, name))}


def _outcome(event: End) -> State:
    if isinstance(event, Finished):
        return {
            "status": event.status,
            "scored": event.pairs if event.status == OK else 0,
            "latency_ms": event.latency_ms,
            "truncated": event.truncated,
            "cached": event.cached,
            "degraded": event.degraded,
            **_present(event, "field", "tokens", "queue_ms", "tokenise_ms", "score_ms"),
        }
    if isinstance(event, Shed):
        return {"status": "shed", "reason": event.reason, "scored": 0, "latency_ms": 0.0}
    return {"status": "expired", "scored": event.scored, "latency_ms": event.latency_ms}
