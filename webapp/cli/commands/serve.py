"""`reranking serve`."""

from __future__ import annotations

import click

from webapp.cli.settings_flags import SettingsCommand, load_with_sources


@click.command(cls=SettingsCommand)
def command() -> None:
    """Run the whole stack in the foreground.

    Prepares the model where that was not done, says "Ready: URL" after a first score, and ends on Ctrl-C or TERM
    when what was admitted is finished.

    Examples:
      reranking serve
      reranking serve --port 9000 --state-dir /srv/reranking
      RERANK_API_KEYS=k1,k2 reranking serve --config /etc/reranking.yaml
    """
    from webapp.stack.serve import serve  # noqa: PLC0415 - each command loads what it needs

    settings, sources = load_with_sources()
    serve(settings, sources.path)
