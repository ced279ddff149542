"""`python -m webapp.telemetry.exporter FOLDER SOCKET PUSHER`: serves /metrics in a process of its own.

So a worker that is full, hangs or died hides nothing. It reads the files that workers left in FOLDER, asks the pusher
on its socket, reads from /proc what all processes of the service take, and serves SOCKET to nginx. It imports nothing
large of the service, so it is small and starts at once.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import MetricsHandler
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from webapp.config import resources
from webapp.telemetry import multiprocess
from webapp.telemetry.cpu import CpuTime, parent_of
from webapp.telemetry.metrics import CPU_CORES, CPU_SECONDS, FILES, PUSHER, PUSHER_UP, Metric, TotalCounter

PUSHER_TIMEOUT_S = 0.5
TRIES = 5


class Workers(Collector):
    """The counts of all workers, dead ones too, and the levels of those that live."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Family]:
        """Return the sum of all files."""
        for attempt in range(TRIES):
            try:
                # An empty one is of a process that died just then; the next process in its slot fills it.
                files = [path for path in self._folder.glob("*.db") if path.stat().st_size]
                read = [str(path) for path in files if not multiprocess.has_dead_levels(path)]
                merged = list(MultiProcessCollector.merge(read))  # type: ignore[no-untyped-call]
            except (OSError, ValueError, struct.error):  # a file came or went just now: a service starts
                if attempt == TRIES - 1:
                    raise
                time.sleep(0.02)
            else:
                return [_family(FILES, len(files)), *merged]
        return []


class Pusher(Collector):
    """The metrics of the pusher."""

    def __init__(self, address: str) -> None:
        self._address = address

    def collect(self) -> Iterable[Family]:
        """Ask the pusher; if it is slow or dead, return only that it is down."""
        figures: Mapping[str, Any] = {}
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            figures = _ask(self._address)
        yield _family(PUSHER_UP, figures)
        if figures:
            yield from (_family(metric, figures) for metric in PUSHER)


class Cpu(Collector):
    """The CPU time of the service, and the cores that it may use.

    Args:
        root: pid of the process from which all others of the service descend.
    """

    def __init__(self, root: int) -> None:
        self._time = CpuTime(root)

    def collect(self) -> Iterable[Family]:
        """Read them."""
        yield _family(CPU_SECONDS, self._time.seconds())
        yield _family(CPU_CORES, resources.cores())


def _family(metric: Metric[Any], source: Any) -> Family:
    """Return a metric as it is served, read from its source."""
    value = metric.read(source)
    if metric.kind is TotalCounter:
        return CounterMetricFamily(metric.name, metric.text, value)
    family = GaugeMetricFamily(metric.name, metric.text, labels=metric.labels)
    for labels, level in value.items() if isinstance(value, Mapping) else [((), value)]:
        family.add_metric(labels, level)
    return family


def _ask(address: str) -> dict[str, Any]:
    with contextlib.closing(http.client.HTTPConnection("pusher")) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(PUSHER_TIMEOUT_S)
        connection.sock.connect(address)
        connection.request("GET", "/figures")
        figures: dict[str, Any] = json.loads(connection.getresponse().read())
        return figures


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what failed, unless the client left."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(MetricsHandler):
    timeout = 10  # s; then a client that sends nothing is disconnected

    def do_HEAD(self) -> None:  # noqa: N802 - the base class finds it by this name
        """Answer as to GET; nginx drops the body."""
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
        """Log nothing: nginx writes the access line."""


def registry(folder: Path, pusher: str, root: int) -> CollectorRegistry:
    """Return a registry of everything that is served.

    Args:
        folder: where workers leave their metrics.
        pusher: the pusher's socket; empty: the stack has none of its own, and others may count that one.
        root: pid of the process from which all others of the service descend.
    """
    found = CollectorRegistry()
    found.register(Workers(folder))
    if pusher:
        found.register(Pusher(pusher))
    found.register(Cpu(root))
    return found


def main(folder: Path, address: Path, pusher: str) -> None:
    """Serve until TERM."""
    address.unlink(missing_ok=True)  # a killed predecessor's
    os.umask(0o177)
    serve = parent_of(os.getppid())  # our parent is supervisord
    handler = type("Handler", (_Handler,), {"registry": registry(folder, pusher, serve)})
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # there is nothing to save
    _Server(str(address), handler).serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
