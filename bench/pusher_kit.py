"""A pusher alone, browsers that read or don't, and a flood."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import harness
import zmq

from contracts.events import Accepted, Event, Finished, Progress, Pulse, Source, encode


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Pusher:
    """A pusher alone, without webapp and nginx; spoken to over its unix socket."""

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RERANK_")}
        environment["RERANK_STATE_DIR"] = directory
        self.process = subprocess.Popen([sys.executable, "-m", "pusher"], env=environment, cwd=harness.ROOT)
        self.address = f"ipc://{directory}/run/events.sock"
        while not (self.directory / "run" / "events.sock").exists():
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        return self.process.pid

    def counts(self) -> dict[str, float]:
        connection = http.client.HTTPConnection("localhost", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.directory / "run" / "pusher.sock"))
        connection.request("GET", "/progress")
        counts: dict[str, float] = json.loads(connection.getresponse().read())
        connection.close()
        return counts

    def browse(self, *, reads: bool) -> Browser:
        return Browser(self.directory / "run" / "pusher.sock", reads=reads)


@contextmanager
def pusher_alone() -> Iterator[Pusher]:
    with tempfile.TemporaryDirectory(prefix="pusher") as directory:
        pusher = Pusher(directory)
        try:
            yield pusher
        finally:
            pusher.process.terminate()
            pusher.process.wait(10)


class Browser:
    """A bare WebSocket that watches the overview, and reads on or stops."""

    def __init__(self, path: Path, *, reads: bool) -> None:
        self.bytes = 0
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.socket.sendall(
            b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self.socket.recv(65536)
        for text in ("40", '420["watch"]'):  # connect to the namespace, then watch
            self._send(text)
            time.sleep(0.2)
        if reads:
            threading.Thread(target=self._read, daemon=True).start()

    def _send(self, text: str) -> None:
        mask = b"\0\0\0\0"
        self.socket.sendall(bytes([0x81, 0x80 | len(text)]) + mask + text.encode())

    def _read(self) -> None:
        try:
            while data := self.socket.recv(65536):
                self.bytes += len(data)
                if b"\x81\x012" in data:  # a ping
                    self._send("3")
        except OSError:
            pass

    def is_connected(self) -> bool:
        self.socket.setblocking(False)
        try:
            while data := self.socket.recv(1_000_000):
                self.bytes += len(data)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False


def flood(address: str, rate: int, seconds: float, *, events_a_frame: int) -> tuple[int, int]:
    """Publish like a very busy worker; returns events sent and events that did not go out."""
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.set(zmq.SNDHWM, 64)
    socket.set(zmq.LINGER, 0)
    socket.connect(address)
    rng = random.Random(5)
    source = Source(id="flood", pid=1)
    sent = dropped = seq = 0
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        while (sent + dropped) < now * rate:
            name = f"r{rng.randrange(400)}"
            of = {"id": name, "dialect": "native", "pairs": 1000}
            batch: list[Event] = [
                Accepted(**of),
                Progress(**of, scored=rng.randrange(1000), age_ms=10.0),
                Finished(**of, status="ok", latency_ms=rng.expovariate(0.01)),
                Pulse(state="ready", queue_pairs=1, queue_tokens=1, in_flight=1, pairs_per_s=1.0),
            ]
            events = (batch * (events_a_frame // 4 + 1))[:events_a_frame]
            try:
                socket.send(encode(source, seq, events), zmq.NOBLOCK)
                seq += 1
                sent += events_a_frame
            except zmq.Again:
                dropped += events_a_frame
        time.sleep(0.002)
    time.sleep(1)
    socket.close()
    context.term()
    return sent, dropped
