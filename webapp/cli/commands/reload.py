"""`reranking reload`."""

from __future__ import annotations

import click

from webapp.cli.settings_flags import SettingsCommand, load_running


@click.command(cls=SettingsCommand)
def command() -> None:
    """Have a running stack read its API keys and its certificate again, as HUP does.

    Both are checked first; what is wrong there is refused. No request is lost. It takes over no other setting: that
    is what reranking restart is for.

    Example:
      reranking reload
    """
    from webapp.stack.control import reload  # noqa: PLC0415 - each command loads what it needs

    reload(load_running())
    click.echo("the stack reads keys and certificate again; new workers take over within seconds")
