"""`reranking balance`."""

from __future__ import annotations

import click

from webapp.cli.settings_flags import SettingsCommand, load


@click.command(cls=SettingsCommand)
def command() -> None:
    """Divide requests over the stacks of other machines, in the foreground.

    RERANK_STACKS names them. HUP reads the settings again; Ctrl-C or TERM finishes what is at work. Its limits are in
    docs/scaling.md.

    Examples:
      reranking balance --stacks http://10.0.0.7:8080,http://10.0.0.8:8080 --host 0.0.0.0
      reranking balance --config /etc/reranking-balancer.yaml
    """
    from webapp.stack.balance import balance  # noqa: PLC0415 - each command loads what it needs

    balance(load(), load)
