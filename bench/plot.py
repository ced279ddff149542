"""Throughput against latency, a line a server."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import harness
import load
import matplotlib as mpl
from matplotlib import pyplot as plt

WORKLOAD = "50 documents, concurrency "


def throughput_latency(outcomes: Mapping[tuple[str, str], tuple[float, load.Outcome]], path: Path) -> None:
    """Documents a second to the right, median latency upwards, both logarithmic; a point for each concurrency."""
    mpl.use("agg")
    lines: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for (server, workload), (rate, outcome) in outcomes.items():
        concurrency = workload.removeprefix(WORKLOAD)
        if workload.startswith(WORKLOAD) and concurrency.isdigit():
            lines[server].append((rate, outcome.latency_ms(0.5) / 1000, concurrency))
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for server, points in lines.items():
        own = server.startswith("ours")
        axes.plot(
            [rate for rate, _, _ in points],
            [seconds for _, seconds, _ in points],
            marker="o",
            linewidth=2.5 if own else 1.5,
            label=server,
        )
        for rate, seconds, concurrency in points:
            axes.annotate(concurrency, (rate, seconds), textcoords="offset points", xytext=(6, 4), fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("documents a second (right is better)")
    axes.set_ylabel("median latency, s (down is better)")
    axes.set_title("50 documents of about 190 tokens a request; numbers: concurrent requests", fontsize=10)
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(frameon=False)
    figure.text(0.99, 0.005, harness.machine(), ha="right", fontsize=6, alpha=0.6)
    figure.savefig(path, dpi=130)
