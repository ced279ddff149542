"""Commands that show how a stack is: its state, what is wrong, and its logs."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from webapp.cli.settings_flags import SettingsCommand, load, load_candidate, load_running
from webapp.stack import log_files

if TYPE_CHECKING:
    from webapp.stack.status import Status

# Each command imports what it needs, so that --help is quick.

HEALTH = {"serving": (0, "green"), "impaired": (3, "yellow"), "down": (4, "red")}
"""Health -> exit code, and color."""

SOMETHING_BAD = 5

MARKS = {"good": ("ok", "green"), "poor": ("poor", "yellow"), "bad": ("BAD", "red")}

_json = click.option("--json", "as_json", is_flag=True, help="For programs.")


@click.command(cls=SettingsCommand)
@_json
def doctor(*, as_json: bool) -> None:
    """Check what is wrong here, and name the remedies.

    If a stack runs in the state directory its settings are checked, or those of --config instead.

    Model files against their sha256, directories and their permissions, disk, memory, processor, limits, ports,
    sockets, keys, certificate, nginx, Redis. Exit codes: 0 nothing is bad, 5 something has to be mended before it
    serves.

    Examples:
      reranking doctor
      reranking doctor --config candidate.yaml
    """
    from webapp.stack.doctor import examine  # noqa: PLC0415

    findings = []
    for finding in examine(load_candidate()):
        findings.append(finding)
        if not as_json:
            mark, color = MARKS[finding.verdict]
            click.echo(f"{click.style(f'{mark:4}', fg=color)}  {finding.about:15}  {finding.seen}")
            if finding.remedy:
                click.echo(f"{'':21}  -> {finding.remedy}")
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    if any(finding.verdict == "bad" for finding in findings):
        click.get_current_context().exit(SOMETHING_BAD)


@click.command(cls=SettingsCommand)
@click.argument("programs", nargs=-1, metavar="[PROGRAM]...")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines, until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(0), default=20, show_default=True, help="Begin with this many.")
@click.option("--request", metavar="ID", default="", help="Lines of this request alone.")
@click.option("--level", type=click.Choice(log_files.LEVELS), default="debug", help="Lines of this level and above.")
@click.option("--json", "as_json", is_flag=True, help="Lines as in the files; default without a terminal.")
def logs(*, programs: tuple[str, ...], follow: bool, lines: int, request: str, level: str, as_json: bool) -> None:
    """Show the log lines of all PROGRAMs together, in order of time.

    Programs are webapp (both colors), webapp-blue, webapp-green, nginx, pusher, metrics, supervisord; without one,
    all of them. Rotated files are read as far as needed.

    Examples:
      reranking logs -f
      reranking logs -n 100 webapp nginx --level warning
      reranking logs --request 1234-abcd --json | jq .duration_ms
    """
    files = log_files.files_of(load().log_dir, programs)
    wanted = log_files.Filter(request, level).takes
    show = _shown(as_json=as_json or not sys.stdout.isatty())
    for line in log_files.last(files, lines, wanted):
        click.echo(show(line))
    if follow:
        for line in log_files.follow(files, wanted):
            click.echo(show(line))


def _shown(*, as_json: bool) -> Callable[[str], str]:
    if as_json:
        return str
    from contracts.logging.foreign import ours  # noqa: PLC0415
    from contracts.logging.line import renderer  # noqa: PLC0415

    render = renderer("color")
    # With RERANK_LOG_FORMAT=human the files are text already.
    return lambda line: line if (event := ours(line)) is None else render(event)


@click.command(cls=SettingsCommand)
@click.option("--watch", is_flag=True, help="Show it again every --every seconds, until Ctrl-C.")
@click.option("--every", type=click.FloatRange(0.2), default=2.0, show_default=True, metavar="S", help="With --watch.")
@click.option("--json", "as_json", is_flag=True, help="For programs; with --watch, a line each time.")
def status(*, watch: bool, every: float, as_json: bool) -> None:
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
        if as_json:
            shown = {"health": found.health, **dataclasses.asdict(found)}
            click.echo(json.dumps(shown, indent=None if watch else 2))
        else:
            if watch:
                click.clear()
            click.echo(_as_text(found))
        if not watch:
            break
        time.sleep(every)
    click.get_current_context().exit(HEALTH[found.health][0])


def _as_text(found: Status) -> str:
    model = "{model} ({engine} {precision})".format(**found.model) if found.model else "no model is prepared"
    parts = [
        click.style(found.health, fg=HEALTH[found.health][1], bold=True) + f"  {found.url}  {model}",
        *(click.style(f"  ! {trouble}", fg="yellow") for trouble in found.troubles),
    ]
    if found.comparison:
        parts.append(f"  {found.comparison}")
    if found.ready != "ready":
        parts.append(click.style(f"  ! /ready: {found.ready}", fg="red"))
    programs = [
        {**dataclasses.asdict(each), "up": _duration(each.uptime_s) if each.pid else None} for each in found.programs
    ]
    figures = [found.figures] if found.figures else []
    for columns, records in ((_PROGRAM, programs), (_WORKER, found.workers), (_FIGURES, figures)):
        if records:
            parts += ["", _table(columns, records)]
    return "\n".join(parts)


_PROGRAM = {"program": "name", "": "role", "state": "state", "pid": "pid", "up": "up"}
"""Column -> field of a program."""

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


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "pid":
        return str(value or "-")
    if name == "rss_bytes":
        value /= 1e6
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2g}"  # noqa: PLR2004
    return f"{value:,}" if isinstance(value, int) else str(value)


def _duration(seconds: int) -> str:
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    return f"{days} d" if days else f"{hours} h" if hours else f"{minutes} min" if minutes else f"{seconds} s"


def _table(columns: Mapping[str, str], records: Sequence[Mapping[str, Any]]) -> str:
    """Return an aligned table: words to the left, numbers to the right."""
    rows = [[_cell(name, record.get(name)) for name in columns.values()] for record in records]
    right = [all(cell[:1].isdigit() or cell == "-" for cell in column) for column in zip(*rows, strict=True)]
    rows.insert(0, list(columns))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shapes = [f"{'>' if to_right else '<'}{width}" for width, to_right in zip(widths, right, strict=True)]
    lines = ["  ".join(map(format, row, shapes)).rstrip() for row in rows]
    return "\n".join([click.style(lines[0], bold=True), *lines[1:]])
