"""The pusher under a flood, with browsers that don't read, and with five hundred followers; what events cost a rerank.

.venv/bin/python bench/pusher.py                       everything, a table each
.venv/bin/python bench/pusher.py --clients-only URL N  N followers of one rerank on a running service: heard, slowest s
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import harness

sys.path.insert(0, str(harness.ROOT))  # before this folder: the package `pusher` has this file's name

import load
import zmq

from pusher.events import Accepted, Event, Finished, Progress, Pulse, Source, encode

RATE = 10_000
FLOOD_S = 15
PAIRS_OF_RUNS = 8


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
        import http.client
        import socket

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
        import socket

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


def measure_flood() -> None:
    print(f"\n{RATE:,} events/s for {FLOOD_S} s; three dashboards read, one stopped reading\n")
    print("| events a frame | sent | not sent | relayed/s | CPU (one core) | RSS before | RSS after | dashboards got |")
    print("|---|---|---|---|---|---|---|---|")
    for events_a_frame in (1, 50):
        with pusher_alone() as pusher:
            browsers = [pusher.browse(reads=True) for _ in range(3)]
            stalled = pusher.browse(reads=False)
            time.sleep(1)
            before, cpu, began = rss_mb(pusher.pid), cpu_s(pusher.pid), time.monotonic()
            sent, dropped = flood(pusher.address, RATE, FLOOD_S, events_a_frame=events_a_frame)
            used = (cpu_s(pusher.pid) - cpu) / (time.monotonic() - began)
            counts = pusher.counts()
            rate = sum(browser.bytes for browser in browsers) / 3 / FLOOD_S / 1000
            print(
                f"| {events_a_frame} | {sent:,} | {dropped:,} | {counts['events'] / FLOOD_S:,.0f} | {used:.0%}"
                f" | {before:.0f} MB | {rss_mb(pusher.pid):.0f} MB | {rate:.0f} kB/s each |"
            )
            assert counts["lost_frames"] == 0
            del stalled


def measure_stalled(count: int = 20) -> None:
    print(f"\n{count} browsers that stop reading, beside 10,000 events/s\n")
    with pusher_alone() as pusher:
        before = rss_mb(pusher.pid)
        stalled = [pusher.browse(reads=False) for _ in range(count)]
        finished = threading.Event()
        peak = [before]

        def watch() -> None:
            while not finished.wait(0.2):
                peak[0] = max(peak[0], rss_mb(pusher.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        flood(pusher.address, RATE, 45, events_a_frame=50)
        finished.set()
        watcher.join()
        left = sum(browser.is_connected() for browser in stalled)
        print("| RSS before | peak | after 45 s | still connected |")
        print("|---|---|---|---|")
        print(f"| {before:.0f} MB | {peak[0]:.0f} MB | {rss_mb(pusher.pid):.0f} MB | {left} of {count} |")


def follow_with(url: str, count: int) -> tuple[int, float]:
    """That many Socket.IO clients follow one rerank; how many heard its end, and the slowest, in s after the reply."""
    from gevent import monkey

    monkey.patch_all()
    import gevent
    import socketio
    from gevent.pool import Pool

    name = f"followed-{os.getpid()}"
    heard: list[float] = []
    clients = []

    def note(state: dict[str, object]) -> None:
        if state["status"] == "ok":
            heard.append(time.monotonic())

    def connect(_number: int) -> None:
        client = socketio.Client(reconnection=False)
        client.on("progress", note)
        client.connect(url, transports=["websocket"], wait_timeout=60)
        assert client.call("follow", name, timeout=60)["ok"]
        clients.append(client)

    Pool(20).map(connect, range(count))
    documents = harness.texts(400, mean_words=40, seed=os.getpid())
    request = urllib.request.Request(
        f"{url}/rerank", data=harness.body("a question", documents), headers={"X-Request-Id": name}
    )
    with urllib.request.urlopen(request, timeout=300) as reply:
        reply.read()
    ended = time.monotonic()
    give_up = ended + 30
    while len(heard) < count and time.monotonic() < give_up:
        gevent.sleep(0.01)
    slowest = max(heard, default=float("inf")) - ended
    Pool(50).map(lambda client: client.disconnect(), clients)
    return len(heard), slowest


def measure_clients() -> None:
    print("\nSocket.IO clients that follow one rerank, all at once\n")
    print("| clients | heard its end | the last one, after the reply |")
    print("|---|---|---|")
    with harness.service(harness.minilm_cross_encoder(), precision="fp32") as service:
        for count in (100, 500):
            command = [sys.executable, __file__, "--clients-only", service.url, str(count)]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            print(f"| {count} | {said[-2]} | {float(said[-1]):.2f} s |")


def measure_cost(engine: str, bodies: list[bytes], concurrency: int, what: str) -> None:
    """Throughput with events on and off, run by run in turn: the machine's moods hit both."""
    shares = []
    model = None if engine == "stub" else harness.minilm_cross_encoder()
    options = {"engine": engine} if engine == "stub" else {"precision": "fp32"}
    rates: dict[str, list[float]] = {"off": [], "on": []}
    with (
        harness.service(model, **options, cache_mb=0, events="false") as off,
        harness.service(
            model, **options, cache_mb=0, events="true", state_dir=str(harness.STATE_DIR / "state-on")
        ) as on,
    ):
        for service in (off, on):
            load.closed_loop(service.port, bodies[: len(bodies) // 4], concurrency)  # warm
        for turn in range(PAIRS_OF_RUNS):
            both = {}
            for name, service in (("off", off), ("on", on))[:: 1 if turn % 2 else -1]:
                both[name] = load.closed_loop(service.port, bodies, concurrency).rate
                rates[name].append(both[name])
            shares.append(both["on"] / both["off"] - 1)
    error = statistics.stdev(shares) / len(shares) ** 0.5
    print(
        f"| {what} | {statistics.median(rates['off']):,.1f} | {statistics.median(rates['on']):,.1f}"
        f" | {statistics.median(shares):+.1%} | {statistics.mean(shares):+.1%} ± {error:.1%} |",
        flush=True,
    )


def measure_costs() -> None:
    print(f"\nRequests/s without and with events, {PAIRS_OF_RUNS} paired runs each\n")
    print("| workload | off | on | median of the pairs | mean |")
    print("|---|---|---|---|---|")
    texts = harness.texts(20, mean_words=40, seed=3)
    measure_cost("openvino", [harness.body(f"q{n}", texts) for n in range(24)], 4, "20 documents, concurrency 4")
    texts = harness.texts(5, mean_words=20, seed=4)
    bodies = [harness.body(f"q{n}", texts) for n in range(1500)]
    measure_cost("stub", bodies, 8, "5 documents, no model, concurrency 8")


def main() -> None:
    if sys.argv[1:2] == ["--clients-only"]:
        url, count = sys.argv[2:]
        assert urlsplit(url).hostname == "127.0.0.1"
        told, slowest = follow_with(url, int(count))
        print(told, f"{slowest:.3f}")
        return
    parts = {"flood": measure_flood, "stalled": measure_stalled, "clients": measure_clients, "cost": measure_costs}
    print(harness.machine())
    for name in sys.argv[1:] or parts:
        parts[name]()


if __name__ == "__main__":
    main()
