"""The plots of docs/performance.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import harness
import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

FOLDER = harness.ROOT / "docs" / "images"

mpl.use("agg")


def policies(loads: Sequence[float], lines: Mapping[tuple[int, str], Sequence[float]]) -> None:
    """p99 against load, a panel for each number of machines."""
    counts = sorted({count for count, _ in lines})
    figure, panels = plt.subplots(1, len(counts), figsize=(9, 3.4), sharey=True, layout="constrained")
    for axes, count in zip(panels, counts, strict=True):
        for (machines, policy), values in lines.items():
            if machines == count:
                axes.plot([100 * load for load in loads], values, marker="o", markersize=3, label=policy)
        axes.set_title(f"{count} machines", fontsize=10)
        axes.set_xlabel("load, %")
        axes.set_yscale("log")
        axes.grid(visible=True, which="both", alpha=0.2)
    panels[0].set_ylabel("p99, ms")
    panels[0].legend(frameon=False, fontsize=8)
    _save(figure, "scaling-policies")


def overload(lines: Mapping[tuple[str, str], Sequence[float]], spike: tuple[float, float]) -> None:
    """Share of the requests that are answered, over time."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    for axes, service in zip(panels, dict.fromkeys(service for service, _ in lines), strict=True):
        for (each, name), values in lines.items():
            if each == service:
                axes.plot(np.arange(len(values)) * 5 + 2.5, [100 * value for value in values], label=name)
        axes.axvspan(*spike, alpha=0.1, color="red", linewidth=0)
        axes.set_title(f"the service {service}", fontsize=10)
        axes.set_xlabel("seconds")
        axes.set_ylim(-3, 103)
        axes.grid(visible=True, alpha=0.2)
    panels[0].set_ylabel("requests answered, %")
    panels[0].legend(frameon=False, fontsize=8, loc="lower right")
    _save(figure, "scaling-overload")


def release(lines: Mapping[int, tuple[Sequence[float], Sequence[float]]]) -> None:
    """p99 over time while machines go away and come back."""
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for together, (at_s, values) in lines.items():
        axes.plot(at_s, values, label=f"{together} of 10 away at a time")
    axes.set_xlabel("seconds")
    axes.set_ylabel("p99 of 5 s, ms")
    axes.set_yscale("log")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(frameon=False, fontsize=8)
    _save(figure, "scaling-release")


def _save(figure: plt.Figure, name: str) -> None:
    figure.savefig(FOLDER / f"{name}.png", dpi=110)
    plt.close(figure)
