"""Memory of the master and of each worker: fresh, after 500 and after 2,000 requests of mixed sizes.

PSS counts a page shared by n processes as 1/n in each. Run: .venv/bin/python bench/memory.py
"""

from __future__ import annotations

import random
from pathlib import Path

import harness
import load

STEPS = (0, 500, 2000)
CLIENTS = 4
SIZES = (1, 2, 4, 4, 8, 16)


def figures_mb(pid: int) -> dict[str, float]:
    """Return the kernel's figures of a process's memory by their names, MiB; see smaps_rollup in proc(5)."""
    figures = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split()[:2]
        figures[name.rstrip(":")] = int(value) / 1024
    return figures


def pss_mb(pid: int) -> tuple[float, float]:
    """Return proportional and private memory of a process, MiB."""
    figures = figures_mb(pid)
    return figures["Pss"], figures["Private_Clean"] + figures["Private_Dirty"]


def send(port: int, count: int, seed: int) -> None:
    """Send `count` requests from several clients, distinct texts of 5 to 512 tokens."""
    rng = random.Random(seed)
    pool = harness.texts(400, mean_words=60, seed=seed)
    bodies = [harness.body(f"query {number}", rng.sample(pool, rng.choice(SIZES))) for number in range(count)]
    load.closed_loop(port, bodies, CLIENTS)


def main() -> None:
    print(f"{harness.machine()}; MiniLM-L6 shape, 2 engine threads a worker\n")
    print("| workers | requests | master PSS MB | worker PSS MB (private) |")
    print("|---|---|---|---|")
    model = harness.minilm_cross_encoder()
    for workers in (1, 2, 4):
        with harness.service(model, workers=workers, engine_threads=2) as service:
            sent = 0
            for step in STEPS:
                send(service.port, step - sent, seed=step)
                sent = step
                master, children = service.pids()
                figures = [pss_mb(pid) for pid in children]
                shown = ", ".join(f"{pss:.0f} ({private:.0f})" for pss, private in figures)
                print(f"| {workers} | {step} | {pss_mb(master)[0]:.0f} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
