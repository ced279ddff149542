"""What each replica has still to do, as the proxy that sends the requests knows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

REMEMBERED = 0.9
"""The part of what was measured that counts on when a request ends: a speed is that of the last ten requests or so."""


class _Replica:
    """One replica's requests, in bytes, and its speed."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.begun = 0.0
        """When it ended its last request, or got the first one."""
        self.bytes = 0.0
        self.busy_s = 0.0
        """The bytes of the requests that ended, and the time it had requests; the earlier, the less they count."""

    def work(self, now: float) -> float:
        """Return the bytes that are left. What is done of a request is known only by the time that passed."""
        if not self.sizes:
            return 0.0
        done = self.bytes / self.busy_s * (now - self.begun) if self.busy_s else 0.0
        return sum(self.sizes.values()) - min(done, max(self.sizes.values()))

    def end(self, request: str, now: float) -> None:
        """Forget a request that was answered, and learn from it how fast the replica is."""
        self.bytes = REMEMBERED * self.bytes + self.sizes.pop(request)
        self.busy_s = REMEMBERED * self.busy_s + now - self.begun
        self.begun = now


class Backlogs:
    """The work left for each replica, in bytes of bodies: the longer the texts, the more tokens.

    A request counts from the choice of its replica: of two that come at once, the second must not go where the first
    went. It ends some milliseconds after its client has the reply, and the client's next request is often earlier than
    that; so a replica's speed tells what is left of the request that it is at.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._replicas: dict[Hashable, _Replica] = {}
        self._chosen: dict[str, Hashable] = {}
        self._unsent: set[str] = set()

    def of(self, replica: Hashable) -> float:
        """Return the bytes left to do."""
        return self._replicas[replica].work(self._clock()) if replica in self._replicas else 0.0

    def choose(self, request: str, replica: Hashable, size: int) -> None:
        """Count a request, in bytes, for a replica that it may go to; a second choice replaces the first one."""
        self._forget(request)
        chosen = self._replicas.setdefault(replica, _Replica())
        if not chosen.sizes:
            chosen.begun = self._clock()
        chosen.sizes[request] = size
        self._chosen[request] = replica
        self._unsent.add(request)

    def send(self, request: str, replica: Hashable) -> None:
        """Count a chosen request where it went; one that has ended by now counts nowhere."""
        if request in self._chosen:
            if replica != self._chosen[request]:
                self.choose(request, replica, self._forget(request))
            self._unsent.discard(request)

    def drop(self, request: str) -> None:
        """Forget a request that was chosen for and never sent."""
        if request in self._unsent:
            self._forget(request)

    def end(self, request: str) -> None:
        """Count a request as done; nothing happens if it is not known."""
        if request in self._chosen:
            self._replicas[self._chosen[request]].end(request, self._clock())
            del self._chosen[request]
            self._unsent.discard(request)

    def keep(self, replicas: set[Hashable]) -> None:
        """Forget the replicas that are none of these."""
        for gone in self._replicas.keys() - replicas:
            for request in self._replicas.pop(gone).sizes:
                del self._chosen[request]
                self._unsent.discard(request)

    def _forget(self, request: str) -> int:
        """Take a request out as if it had never come; return its size."""
        self._unsent.discard(request)
        return self._replicas[self._chosen.pop(request)].sizes.pop(request) if request in self._chosen else 0
