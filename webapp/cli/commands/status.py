"""`reranking status`."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import TYPE_CHECKING, Any

import click

from webapp.cli.settings_flags import SettingsCommand, load_running

if TYPE_CHECKING:
    from webapp.stack.status import Status

EXIT_CODES = {"serving": 0, "impaired": 3, "down": 4}

COLORS = {"serving": "green", "impaired": "yellow", "down": "red"}


@click.command(cls=SettingsCommand)
@click.option("--watch", is_flag=True, help="Show it again every --every seconds, until Ctrl-C.")
@click.option("--every", type=click.FloatRange(0.2), default=2.0, show_default=True, metavar="S", help="With --watch.")
@click.option("--json", "as_json", is_flag=True, help="For programs; with --watch, a line each time.")
def command(*, watch: bool, every: float, as_json: bool) -> None:
    """Show programs, workers, model, queue, rates and breaker.

    The stack is found by its state directory, wherever it listens. Of its two colors one is active, the other idle
    and stopped.

    Exit codes: 0 serving; 3 impaired: it serves, but a program is down, a socket is gone, a breaker is open, answers
    are degraded or requests are shed; 4 not serving.

    Examples:
      reranking status
      reranking status --watch --every 1
      reranking status --json | jq .troubles
    """
    from webapp.stack.status import inspect  # noqa: PLC0415

    settings = load_running()
    while True:
        found = inspect(settings)
        if watch and not as_json:
            click.clear()
        click.echo(_as_json(found, lines=watch) if as_json else _as_text(found))
        if not watch:
            break
        time.sleep(every)
    click.get_current_context().exit(EXIT_CODES[found.health])


def _as_json(found: Status, *, lines: bool) -> str:
    return json.dumps({"health": found.health, **dataclasses.asdict(found)}, indent=None if lines else 2)


def _as_text(found: Status) -> str:
    model = "{model} ({engine} {precision})".format(**found.model) if found.model else "no model is prepared"
    parts = [
        click.style(found.health, fg=COLORS[found.health], bold=True) + f"  {found.url}  {model}",
        *(click.style(f"  ! {trouble}", fg="yellow") for trouble in found.troubles),
    ]
    if found.comparison:
        parts.append(f"  {found.comparison}")
    if found.ready != "ready":
        parts.append(click.style(f"  ! /ready: {found.ready}", fg="red"))
    if found.programs:
        rows = [
            [each.name, each.role, each.state, str(each.pid or "-"), _duration(each.uptime_s) if each.pid else "-"]
            for each in found.programs
        ]
        parts += ["", _table(["program", "", "state", "pid", "up"], rows)]
    if found.workers:
        parts += ["", _table(list(_WORKER), [_worker(worker) for worker in found.workers])]
    if found.figures:
        parts += ["", _table(list(_FIGURES), [[_number(found.figures.get(key)) for key in _FIGURES.values()]])]
    return "\n".join(parts)


_WORKER = {
    "worker": "pid",
    "state": "state",
    "at work": "in_flight",
    "queued": "queue_pairs",
    "documents/s": "pairs_per_s",
    "batch fill": "batch_fill",
    "cache hits": "cache_hit_ratio",
    "breaker": "breaker",
    "MB": "rss_bytes",
}
"""Column -> field of a pulse."""

_FIGURES = {
    "requests/s": "requests_per_s",
    "documents/s": "pairs_per_s",
    "p50 ms": "p50",
    "p95 ms": "p95",
    "p99 ms": "p99",
    "queued": "queue_pairs",
    "queued tokens": "queue_tokens",
    "shed": "shed",
}
"""Column -> field of a point."""


def _worker(worker: dict[str, Any]) -> list[str]:
    shown = {**worker, "rss_bytes": worker["rss_bytes"] / 1e6 if "rss_bytes" in worker else None}
    return [str(shown[key]) if key == "pid" else _number(shown.get(key)) for key in _WORKER.values()]


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2g}"  # noqa: PLR2004
    return f"{value:,}" if isinstance(value, int) else str(value)


def _duration(seconds: int) -> str:
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    return f"{days} d" if days else f"{hours} h" if hours else f"{minutes} min" if minutes else f"{seconds} s"


def _table(head: list[str], rows: list[list[str]]) -> str:
    """Return an aligned table: words to the left, numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    right = [all(cell[:1].isdigit() or cell == "-" for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in [head, *rows]
    ]
    return "\n".join([click.style(lines[0], bold=True), *lines[1:]])
