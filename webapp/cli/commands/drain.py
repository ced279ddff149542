"""`reranking drain`."""

from __future__ import annotations

import click

from webapp.cli.settings_flags import SettingsCommand, load_running


@click.command(cls=SettingsCommand)
@click.option("--notice-s", type=float, default=5.0, show_default=True, help="How long /ready says 503 first.")
def command(*, notice_s: float) -> None:
    """Take a running stack out of service, losing nothing.

    Example:
      reranking drain --notice-s 15
    """
    from webapp.stack.control import drain  # noqa: PLC0415

    drain(load_running(), notice_s=notice_s, say=click.echo)
