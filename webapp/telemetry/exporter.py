"""`python -m webapp.telemetry.exporter FOLDER SOCKET PUSHER`: serves /metrics in a process of its own.

So a worker that is full, hangs or died hides nothing. It reads what workers left in FOLDER, asks the pusher on its
socket, and serves SOCKET to nginx. Nothing of the service that is large is imported: it is small, and up in a moment.
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

from webapp.telemetry import multiprocess
from webapp.telemetry.metrics import FILES, PUSHER, PUSHER_UP, Metric, TotalCounter

PUSHER_PATIENCE_S = 0.5
TRIES = 5


class Workers(Collector):
    """What all workers counted, dead ones too; and how it is with those that live."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Family]:
        """Add the files up."""
        for attempt in range(TRIES):
            try:
                # One that is empty was made by a process that died just then; who takes its slot fills it.
                files = [path for path in self._folder.glob("*.db") if path.stat().st_size]
                dead = self._dead(files)
                told = [str(path) for path in files if multiprocess.levels_of(path) not in dead]
                merged = list(MultiProcessCollector.merge(told))  # type: ignore[no-untyped-call]
            except (OSError, ValueError, struct.error):  # a file came or went just now: a service starts
                if attempt == TRIES - 1:
                    raise
                time.sleep(0.02)
            else:
                return [_family(FILES, len(files)), *merged]
        return []

    def _dead(self, files: Iterable[Path]) -> set[int]:
        """Slots that nobody has, and whose levels no master forgot: it was killed with all its workers."""
        slots = {slot for path in files if (slot := multiprocess.levels_of(path)) is not None}
        return {slot for slot in slots if not multiprocess.lives(self._folder, slot)}


class Pusher(Collector):
    """What the pusher says of itself."""

    def __init__(self, address: str) -> None:
        self._address = address

    def collect(self) -> Iterable[Family]:
        """Ask it; one that is slow or dead is down, and no more than that."""
        figures: Mapping[str, Any] = {}
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            figures = _ask(self._address)
        yield _family(PUSHER_UP, figures)
        if figures:
            yield from (_family(metric, figures) for metric in PUSHER)


def _family(metric: Metric[Any], source: Any) -> Family:
    """Return a metric as it is served, read from its source."""
    value = metric.read(source)
    if metric.kind is TotalCounter:
        return CounterMetricFamily(metric.name, metric.text, value)
    family = GaugeMetricFamily(metric.name, metric.text, labels=metric.labels)
    for labels, level in value.items() if isinstance(value, Mapping) else [((), value)]:
        family.add_metric(labels, level)
    return family


class _UnixConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PUSHER_PATIENCE_S)
        self.sock.connect(self.host)


def _ask(address: str) -> dict[str, Any]:
    with contextlib.closing(_UnixConnection(address)) as connection:
        connection.request("GET", "/figures", headers={"Host": "pusher"})
        figures: dict[str, Any] = json.loads(connection.getresponse().read())
        return figures


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell what failed, unless it is that the client left."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(MetricsHandler):
    timeout = 10  # s; who connects and says nothing is let go

    def do_HEAD(self) -> None:  # noqa: N802 - the base class finds it by this name
        """As GET; nginx leaves the body away."""
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
        """Nothing: nginx has the access line."""


def registry(folder: Path, pusher: str) -> CollectorRegistry:
    """Everything that is served."""
    everything = CollectorRegistry()
    everything.register(Workers(folder))
    everything.register(Pusher(pusher))
    return everything


def main(folder: Path, address: Path, pusher: str) -> None:
    """Serve until TERM."""
    address.unlink(missing_ok=True)  # a killed predecessor's
    os.umask(0o177)
    handler = type("Handler", (_Handler,), {"registry": registry(folder, pusher)})
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # it holds nothing
    _Server(str(address), handler).serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
