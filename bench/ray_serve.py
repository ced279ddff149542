"""Two single-thread replicas under Ray Serve against the gunicorn stack with two engine threads, on the same two cores.

Usage: taskset -c 0,1 python bench/ray_serve.py [--rounds 3] [--requests 48]; it wants .venv-ray (./scripts/ray) and the
tests' packages. Both are started and stopped in turn, and asked for the same: 50 documents of about 190 tokens, all
distinct, by closed loops. On a machine that others use, too, rates say little, and processor time for each document
says more: a machine that is busy to the last gives documents by the inverse of that. Of each engine thread's time it
says how much it computed, waited for a core, and had nothing to do.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import harness
import load
import psutil
from speed import bodies

from webapp.config.settings import Settings
from webapp.engine.prepare.pipeline import prepare

sys.path.insert(0, str(harness.ROOT / "tests"))
from ray_kit import NO_RAY, RayCluster  # the tests start one, too

DOCUMENTS = 50
CONCURRENCY = (4, 16)
ENGINE_THREADS = 2
STATE_DIR = harness.STATE_DIR / "state"

CALM = {"RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "1", "RAY_metrics_report_interval_ms": "60000"}
"""Ray's own processes take a fifth of a core while nobody asks; with these a quarter less (docs/performance.md)."""

REST_S, REST_CORES, REST_TRIES = 3.0, 0.3, 20
"""A system is at rest when it takes fewer cores than these for so long; it is given that many times as long."""


@dataclass(frozen=True)
class Run:
    """One closed loop."""

    documents_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    """Processor time of all processes of the system for a document; the load generator's is not in it."""
    without_core: float
    """The share of time in which an engine thread could compute and another program had the core; the mean of both."""
    idle: float
    """The share of time in which it had nothing to compute."""


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process and its descendants that still run."""
    total = 0.0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def threads(pid: int) -> dict[str, tuple[float, float]]:
    """Return the seconds that each thread of a process and its descendants ran, and those that it waited for a core."""
    found = {}
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(psutil.Error, OSError):
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                ran_ns, waited_ns, _ = (thread / "schedstat").read_text().split()
                found[thread.name] = int(ran_ns) / 1e9, int(waited_ns) / 1e9
    return found


@contextlib.contextmanager
def gunicorn(model: Path) -> Iterator[tuple[int, int]]:
    with harness.service(model, engine_threads=ENGINE_THREADS) as service:
        yield service.port, service.process.pid


@contextlib.contextmanager
def ray(model: Path) -> Iterator[tuple[int, int]]:
    with tempfile.TemporaryDirectory() as folder, RayCluster(Path(folder), cpus=2, environment=CALM) as cluster:
        cluster.deploy(
            {"model": str(model), "state_dir": str(STATE_DIR), "log_level": "warning"}, num_replicas=ENGINE_THREADS
        )
        yield cluster.port, cluster.process.pid


def settle(pid: int) -> None:
    """Wait until a system that has just started is at rest: Ray goes on starting processes for a while."""
    for _ in range(REST_TRIES):
        before = cpu_s(pid)
        time.sleep(REST_S)
        if cpu_s(pid) - before < REST_CORES * REST_S:
            return
    raise SystemExit(f"the system takes more than {REST_CORES} of a core without being asked anything")


def measure(port: int, pid: int, requests: int, seed: int) -> dict[int, Run]:
    load.closed_loop(port, bodies(8, DOCUMENTS, seed), 4)  # warm
    runs = {}
    for concurrency in CONCURRENCY:
        settle(pid)
        sent = bodies(requests, DOCUMENTS, seed + 1000 * concurrency)
        before, threads_before = cpu_s(pid), threads(pid)
        outcome = load.closed_loop(port, sent, concurrency)
        spent, threads_after = cpu_s(pid) - before, threads(pid)
        used = sorted(
            tuple(after - first for after, first in zip(times, threads_before.get(thread, (0, 0)), strict=True))
            for thread, times in threads_after.items()
        )[-ENGINE_THREADS:]  # what computes the most
        ran, waited = (sum(each) / ENGINE_THREADS / outcome.seconds for each in zip(*used, strict=True))
        runs[concurrency] = Run(
            outcome.rate * DOCUMENTS,
            outcome.latency_ms(0.5),
            outcome.latency_ms(0.99),
            spent * 1000 / (requests * DOCUMENTS),
            waited,
            max(0.0, 1 - ran - waited),
        )
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=48)
    options = parser.parse_args()
    if NO_RAY:
        raise SystemExit(NO_RAY)
    model = harness.minilm_cross_encoder()
    manifest = prepare(Settings(model=str(model), state_dir=STATE_DIR), print)
    assert manifest is not None
    print(f"\n{harness.machine()}; {manifest.engine} {manifest.precision}; {options.rounds} rounds\n")
    print("| system | concurrency | documents/s | p50 ms | p99 ms | CPU ms a document | without a core | idle |")
    print("|---|---|---|---|---|---|---|---|")
    systems = {"gunicorn, 1 worker of 2 threads": gunicorn, "Ray Serve, 2 replicas of 1 thread": ray}
    all_runs: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for number in range(options.rounds):
        for name, start in systems.items():
            with start(model) as (port, pid):
                for concurrency, run in measure(port, pid, options.requests, 100_000 * (number + 1)).items():
                    all_runs[name, concurrency].append(run)
                    figures = f"{run.documents_per_s:.1f} | {run.p50_ms:.0f} | {run.p99_ms:.0f} | {run.cpu_ms:.2f}"
                    figures += f" | {run.without_core:.1%} | {run.idle:.1%}"
                    print(f"| {name} | {concurrency} | {figures} |", flush=True)
    ours, rays = systems
    print("\n| Ray Serve to gunicorn, medians | documents/s | p99 | CPU a document, inverse | idle |")
    print("|---|---|---|---|---|")
    for concurrency in CONCURRENCY:
        base, other = all_runs[ours, concurrency], all_runs[rays, concurrency]
        ratios = [_median(other, name) / _median(base, name) for name in ("documents_per_s", "p99_ms", "cpu_ms")]
        print(
            f"| concurrency {concurrency} | {ratios[0]:.2f} | {ratios[1]:.2f} | {1 / ratios[2]:.2f} "
            f"| {_median(other, 'idle'):.1%} |"
        )


def _median(runs: list[Run], name: str) -> float:
    return statistics.median(getattr(run, name) for run in runs)


if __name__ == "__main__":
    main()
