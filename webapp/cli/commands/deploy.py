"""`reranking deploy`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from webapp.domain.errors import SetupError

CLEAR_LINE = "\r\x1b[2K"


class Terminal:
    """Prints lines; a line that changes is drawn in place if stdout is a terminal."""

    def __init__(self) -> None:
        self.draws = sys.stdout.isatty()
        self._drawn = False

    def say(self, line: str) -> None:
        """Print a line, in place of one that was drawn."""
        click.echo(f"{CLEAR_LINE if self._drawn else ''}{line}")
        self._drawn = False

    def draw(self, line: str) -> None:
        """Draw a line that the next one replaces."""
        click.echo(f"{CLEAR_LINE}{line}", nl=False)
        self._drawn = True


@click.command()
@click.option("--model", metavar="ID", help="Hub id or local directory.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="A setting; empty: the stack's own.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings, as in reranking.yaml.")
@click.option(
    "--canary", type=click.IntRange(0, 99), default=0, metavar="PERCENT", help="Share of requests that try it."
)
@click.option("--for", "canary_s", type=float, default=60.0, show_default=True, metavar="SECONDS", help="How long.")
@click.option(
    "--watch", type=float, default=5.0, show_default=True, metavar="SECONDS", help="The old one stays on call."
)
@click.option(
    "--patience",
    type=float,
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait until it is ready.",
)
@click.option("--again", is_flag=True, help="Even if nothing changes.")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@click.option("--history", is_flag=True, help="List what was done; a star marks what serves.")
def command(
    *,
    model: str | None,
    assignments: tuple[str, ...],
    config: Path | None,
    canary: int,
    canary_s: float,
    watch: float,
    patience: float,
    again: bool,
    dry_run: bool,
    history: bool,
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
    from webapp.stack.releases import deploy, settings_diff  # noqa: PLC0415 - each command loads what it needs
    from webapp.stack.releases.tasks import DeployOptions  # noqa: PLC0415

    if history:
        click.echo("\n".join(deploy.history(load_settings())))
        return
    if model == "":
        raise SetupError("--model: it names none")
    values = settings_diff.read_file(config) if config else {}
    values |= settings_diff.read_assignments(assignments)
    values |= {"RERANK_MODEL": model} if model else {}
    terminal = Terminal()
    options = DeployOptions(values, canary, canary_s, watch, patience, dry_run, again)
    with deploy.undone_on_term():
        deploy.deploy(options, terminal.say, terminal.draw if terminal.draws else None)
