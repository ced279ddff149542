"""The pusher under a flood, with browsers that don't read, and with five hundred followers; what events cost a rerank.

.venv/bin/python bench/pusher.py                       everything, a table each
.venv/bin/python bench/pusher.py --clients-only URL N  N followers of one rerank on a running service: heard, slowest s
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import harness

sys.path.insert(0, str(harness.ROOT))  # before this folder: the package `pusher` has this file's name

import load
from pusher_kit import cpu_s, flood, pusher_alone, rss_mb

RATE = 10_000
FLOOD_S = 15
PAIRS_OF_RUNS = 40


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
    """Let clients follow one rerank; return how many got its end, and the slowest, in s after the reply."""
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


def cpu_of(service: harness.Service) -> float:
    """CPU seconds so far of a stack's workers and pusher."""
    _, workers = service.pids()
    (supervisord,) = harness.children(service.process.pid)
    pushers = [pid for pid in harness.children(supervisord) if b"pusher" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return sum(cpu_s(pid) for pid in workers + pushers)


def measure_cost(engine: str, bodies: list[bytes], concurrency: int, what: str) -> None:
    """Throughput with events on and off, run by run in turn: the machine's moods hit both."""
    model = None if engine == "stub" else harness.minilm_cross_encoder()
    options = {"engine": engine} if engine == "stub" else {"precision": "fp32"}
    rates: dict[str, list[float]] = {"off": [], "on": []}
    cpu = {"off": 0.0, "on": 0.0}
    state_on = str(harness.STATE_DIR / "state-on")
    with (
        harness.service(model, **options, cache_mb=0, events="false") as off,
        harness.service(model, **options, cache_mb=0, events="true", state_dir=state_on) as on,
    ):
        for service in (off, on):
            load.closed_loop(service.port, bodies, concurrency)  # warm
        for turn in range(PAIRS_OF_RUNS):
            for name, service in (("off", off), ("on", on))[:: 1 if turn % 2 else -1]:
                before = cpu_of(service)
                rates[name].append(load.closed_loop(service.port, bodies, concurrency).rate)
                cpu[name] += cpu_of(service) - before
    shares = [with_events / without - 1 for with_events, without in zip(rates["on"], rates["off"], strict=True)]
    quartiles = statistics.quantiles(shares, n=4)
    each_ms = {name: seconds / len(bodies) / PAIRS_OF_RUNS * 1000 for name, seconds in cpu.items()}
    print(
        f"| {what} | {statistics.median(rates['off']):,.1f} | {statistics.median(rates['on']):,.1f}"
        f" | {quartiles[1]:+.1%} ({quartiles[0]:+.1%} to {quartiles[2]:+.1%})"
        f" | {each_ms['off']:.3f} | {each_ms['on']:.3f} |",
        flush=True,
    )


def measure_costs() -> None:
    print(f"\nRequests/s without and with events, {PAIRS_OF_RUNS} paired runs each; CPU of workers and pusher\n")
    print("| workload | off | on | median of the pairs (quartiles) | CPU ms a request, off | on |")
    print("|---|---|---|---|---|---|")
    texts = harness.texts(20, mean_words=40, seed=3)
    measure_cost("openvino", [harness.body(f"q{n}", texts) for n in range(8)], 4, "20 documents, concurrency 4")
    texts = harness.texts(5, mean_words=20, seed=4)
    bodies = [harness.body(f"q{n}", texts) for n in range(500)]
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
