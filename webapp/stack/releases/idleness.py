"""Whether the service has nothing to do, by what its workers tell the exporter of metrics."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from webapp.stack.releases.color_api import UnixConnection

IDLE_S = 10.0
"""A service without a request for so long is idle."""

POLL_S = 1.0

SETTLE_S = 1.5
"""Workers tell their figures once a second: what came in the last moment is known after this."""

TIMEOUT_S = 5.0

AT_WORK = frozenset({"rerank_active_requests", "rerank_queue_pairs"})
DONE = "rerank_document_count_count"


@dataclass(frozen=True, slots=True)
class Load:
    """What the workers have to do, and did."""

    at_work: float
    done: float


UNKNOWN = Load(at_work=1, done=-1)
"""Nobody answers: that is not idle."""


class Idleness:
    """Waits until the service is idle, and tells whether it stayed so."""

    def __init__(
        self,
        ask: Callable[[], Load],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._sleep = sleep
        self._seen = ask()
        self._since = clock()

    def wait(self) -> None:
        """Return when no request has been at work for `IDLE_S`."""
        while not self._look() or self._clock() - self._since < IDLE_S:
            self._sleep(POLL_S)

    def lasted(self) -> bool:
        """Whether no request has come since `wait` returned."""
        self._sleep(SETTLE_S)
        return self._look()

    def _look(self) -> bool:
        now = self._ask()
        quiet = now == self._seen and not now.at_work
        if not quiet:
            self._seen, self._since = now, self._clock()
        return quiet


def ask_exporter(socket: Path) -> Load:
    """The sum over all workers."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 - a deploy needs none of it

    connection = UnixConnection(socket, TIMEOUT_S)
    with contextlib.suppress(OSError, ValueError), contextlib.closing(connection):
        connection.request("GET", "/metrics")
        told = connection.getresponse().read().decode()
        families = text_string_to_metric_families(told)
        samples = [sample for family in families for sample in family.samples]
        return Load(
            at_work=sum(sample.value for sample in samples if sample.name in AT_WORK),
            done=sum(sample.value for sample in samples if sample.name == DONE),
        )
    return UNKNOWN
