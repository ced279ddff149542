"""Commands that prepare a model, deploy a release, and bring back the one before."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from webapp.cli.settings_flags import SettingsCommand, load
from webapp.domain.errors import SetupError

# Each command imports what it needs, so that --help is quick.

CLEAR_LINE = "\r\x1b[2K"

_SHARE = click.IntRange(0, 99)

_seconds = partial(click.option, type=float, show_default=True, metavar="SECONDS")


class Terminal:
    """Prints lines; a line that changes is drawn in place if stdout is a terminal."""

    def __init__(self) -> None:
        self.draw = self._draw if sys.stdout.isatty() else None
        self._drawn = False

    def say(self, line: str) -> None:
        """Print a line, in place of one that was drawn."""
        click.echo(f"{CLEAR_LINE if self._drawn else ''}{line}")
        self._drawn = False

    def _draw(self, line: str) -> None:
        """Draw a line that the next one replaces."""
        click.echo(f"{CLEAR_LINE}{line}", nl=False)
        self._drawn = True


@click.command(cls=SettingsCommand)
@click.option("--again", is_flag=True, help="Even if it is prepared, as after the hub came back.")
@click.option("--compare", is_flag=True, help="Try every engine and precision, and take the fastest; prepares again.")
@click.option(
    "--calibration-data",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help='Lines of {"query", "documents"} to quantize and judge by; prepares again.',
)
def prepare(*, again: bool, compare: bool, calibration_data: Path | None) -> None:
    """Fetch, convert and check the model, so that it can serve.

    Examples:
      reranking prepare
      reranking prepare --model BAAI/bge-reranker-base --precision int8
      reranking prepare --compare
      reranking prepare --calibration-data mine.jsonl
    """
    from webapp.engine.prepare import pipeline  # noqa: PLC0415

    data = {"calibration_data": calibration_data} if calibration_data else {}
    terminal = sys.stdout if sys.stdout.isatty() else None
    manifest = pipeline.prepare(
        load(), click.echo, again=again or bool(data), compare=compare, terminal=terminal, **data
    )
    if manifest is not None:
        click.echo(f"{manifest.model} is ready to serve in {manifest.precision}")


@click.command()
@click.option("--model", metavar="ID", help="Hub id or local directory.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="A setting; empty: the stack's own.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings, as in reranking.yaml.")
@click.option(
    "--canary", "canary_percent", type=_SHARE, default=0, metavar="PERCENT", help="Share of requests that try it."
)
@_seconds("--for", "canary_s", default=60.0, help="How long.")
@_seconds("--watch", "watch_s", default=5.0, help="The old one stays on call.")
@_seconds("--patience", "ready_timeout_s", default=120.0, help="Longest wait until it is ready.")
@click.option("--again", is_flag=True, help="Even if nothing changes.")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@click.option("--history", is_flag=True, help="List what was done; a star marks what serves.")
def deploy(
    *, model: str | None, assignments: tuple[str, ...], config: Path | None, history: bool, **options: Any
) -> None:
    """Bring a new model, new settings or new code to a running stack; no request is lost.

    It talks to the stack in RERANK_STATE_DIR, and takes all other settings from there. Where the same model, settings
    and code serve already, it says so and starts nothing.

    Examples:
      reranking deploy --model my-org/retrained-reranker
      reranking deploy --set WORKERS=2 --set LOG_LEVEL=debug
      reranking deploy --model ./retrained --canary 10 --for 300
    """
    from webapp.config.settings import load_settings  # noqa: PLC0415
    from webapp.stack.releases import deploy as releases  # noqa: PLC0415
    from webapp.stack.releases import settings_diff  # noqa: PLC0415
    from webapp.stack.releases.tasks import DeployOptions  # noqa: PLC0415

    if history:
        click.echo("\n".join(releases.history(load_settings())))
        return
    if model == "":
        raise SetupError("--model: it names none")
    values = settings_diff.read_file(config) if config else {}
    values |= settings_diff.read_assignments(assignments)
    values |= {"RERANK_MODEL": model} if model else {}
    terminal = Terminal()
    with releases.undone_on_term():
        releases.deploy(DeployOptions(values, **options), terminal.say, terminal.draw)


@click.command()
@click.option("--patience", type=float, default=60.0, show_default=True, help="Longest wait until it is ready, in s.")
def rollback(*, patience: float) -> None:
    """Bring back the release before this one.

    Example:
      reranking rollback
    """
    from webapp.stack.releases import deploy as releases  # noqa: PLC0415

    terminal = Terminal()
    with releases.undone_on_term():
        releases.rollback(terminal.say, patience, terminal.draw)
