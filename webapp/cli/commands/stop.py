"""`reranking stop`."""

from __future__ import annotations

import click

from webapp.cli.settings_flags import SettingsCommand, load_running


@click.command(cls=SettingsCommand)
@click.argument("programs", nargs=-1, metavar="[PROGRAM]...")
def command(*, programs: tuple[str, ...]) -> None:
    """Stop the stack as TERM does, or PROGRAMs that it can do without: the idle webapp, pusher, metrics.

    Requests that were admitted are finished; the command returns when all has ended. Behind a load balancer, use
    reranking drain, which lets /ready say 503 first.

    Examples:
      reranking stop
      reranking stop webapp-green
    """
    from webapp.stack.control import stop  # noqa: PLC0415 - each command loads what it needs

    stop(load_running(), programs, click.echo)
