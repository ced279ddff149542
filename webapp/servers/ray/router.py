"""Which replica a request goes to: the one with the smallest backlog.

Serve's own router counts requests, prefers replicas on the proxy's node, and corrects its counts by answers that are
older than its last choices. So one replica queued while another one waited (docs/performance.md, "A Ray cluster").
Proxies import this, not what computes.
"""

from __future__ import annotations

import asyncio
import pickle  # nosec B403
import random
import weakref
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, ReplicaResult, RequestRouter, RunningReplica

from webapp.servers.ray.backlogs import Backlogs

EACH = 2048
"""Bytes that a request counts besides its body: what it costs however short its texts are."""

UNKNOWN = 1_000_000
"""Bytes that a body of unknown length counts. Few clients send one, and not for short texts."""


def size_of(request: PendingRequest) -> int:
    """Return the bytes that a request counts."""
    argument = request.args[0] if request.args else None
    if isinstance(argument, bytes):
        argument = pickle.loads(argument)  # noqa: S301 # nosec B301 - this proxy made it, of the request's head
    headers = dict(getattr(argument, "asgi_scope", {"headers": ()})["headers"])
    length = headers.get(b"content-length", b"")
    if length.isdigit():
        return EACH + int(length)
    return EACH + (UNKNOWN if b"transfer-encoding" in headers else 0)


class SmallestBacklog(RequestRouter):  # type: ignore[misc] # Ray has no types
    """Chooses the replica with the fewest bytes left; of those without any, that with the fewest requests by Serve."""

    def initialize_state(self, **_options: Any) -> None:
        """Begin with nothing sent."""
        self._backlogs = Backlogs()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the replicas, best first, each one alone: Serve takes the first that has a place."""
        best_first = sorted(candidate_replicas, key=self._work_before)
        if pending_request is not None and best_first:
            # No second list follows: when all are full, Serve waits a little before it asks again.
            pending_request.routing_context.should_backoff = True
            request = pending_request.metadata.internal_request_id
            self._backlogs.choose(request, best_first[0].replica_id, size_of(pending_request))
            # A caller that hangs up meanwhile leaves nothing but this object, which goes.
            later = asyncio.get_running_loop().call_soon_threadsafe
            gone = weakref.finalize(pending_request, later, self._backlogs.drop, request)
            gone.atexit = False
        return [[replica] for replica in best_first]

    def _work_before(self, replica: RunningReplica) -> tuple[float, int, float]:
        counted = self.replica_queue_len_cache.get(replica.replica_id) or 0
        return self._backlogs.of(replica.replica_id), counted, random.random()  # noqa: S311 # nosec B311 - a lot between equals

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Forget the replicas that are gone, and what they had."""
        super().update_replicas(replicas)
        self._backlogs.keep({replica.replica_id for replica in replicas})

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        """Count a request for the replica that took it."""
        del result
        self._backlogs.send(pending_request.metadata.internal_request_id, replica_id)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Forget a request that has its reply, or failed."""
        del replica_id
        self._backlogs.end(internal_request_id)
