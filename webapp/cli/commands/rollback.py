"""`reranking rollback`."""

from __future__ import annotations

import click

from webapp.cli.commands.deploy import Terminal


@click.command()
@click.option("--patience", type=float, default=60.0, show_default=True, help="Longest wait until it is ready, in s.")
def command(*, patience: float) -> None:
    """Bring back the release before this one.

    Example:
      reranking rollback
    """
    from webapp.stack.releases.deploy import rollback, undone_on_term  # noqa: PLC0415 - each command loads what it needs

    terminal = Terminal()
    with undone_on_term():
        rollback(terminal.say, patience, terminal.draw if terminal.draws else None)
