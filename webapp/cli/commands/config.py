"""`reranking config`."""

from __future__ import annotations

import json

import click

from webapp.cli.settings_flags import ListingCommand, load_with_sources


@click.command(cls=ListingCommand)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--changed", is_flag=True, help="Only what is not a default.")
@click.option("--reference", is_flag=True, help="All settings as a page of documentation; reads none of yours.")
def command(*, as_json: bool, changed: bool, reference: bool) -> None:
    """Show the settings in force, and where each is from.

    Secrets are masked. Fails with one line where they are wrong, so it is a check, too.

    Examples:
      reranking config --changed
      reranking config --json | jq .settings.port
      reranking config --config candidate.yaml && echo good
    """
    from webapp.config.reference import as_reference, effective  # noqa: PLC0415

    if reference:
        click.echo(as_reference(), nl=False)
        return
    settings, sources = load_with_sources()
    rows = [row for row in effective(settings, sources) if not changed or row.origin != "default"]
    if as_json:
        shown = {row.name: {"value": row.value, "origin": row.origin, "place": row.place} for row in rows}
        path = str(sources.path) if sources.path else None
        click.echo(json.dumps({"file": path, "settings": shown}, indent=2))
        return
    name_width = max((len(row.name) for row in rows), default=0)
    value_width = max((len(_text(row.value)) for row in rows), default=0)
    for row in rows:
        origin = row.place if row.origin != "default" else click.style("default", dim=True)
        click.echo(f"{row.name:{name_width}}  {_text(row.value):{value_width}}  {origin}")
    if sources.path is None:
        click.echo("(no file: neither RERANK_CONFIG nor ./reranking.yaml)", err=True)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
