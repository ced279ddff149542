"""`reranking restart`."""

from __future__ import annotations

import click

from webapp.cli.settings_flags import SettingsCommand, load_running


@click.command(cls=SettingsCommand)
@click.argument("programs", nargs=-1, metavar="[PROGRAM]...")
def command(*, programs: tuple[str, ...]) -> None:
    """Restart the webapp that serves, or PROGRAMs: webapp, pusher, metrics, nginx.

    The webapp takes over changed settings and loses no request: those at work are finished, those that come meanwhile
    wait. A restart of nginx finishes what is at work and refuses connections for a moment. To change to another model
    without a wait, use reranking deploy.

    Examples:
      reranking restart
      reranking restart webapp pusher
    """
    from webapp.stack.control import restart  # noqa: PLC0415 - each command loads what it needs

    restart(load_running(), programs, click.echo)
