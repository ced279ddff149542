"""`reranking config`, `reranking config init`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from webapp.cli.settings_flags import SettingsCommand, SettingsGroup, load_with_sources


@click.group(cls=SettingsGroup, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--changed", is_flag=True, help="Only what is not a default.")
@click.option("--reference", is_flag=True, help="All settings as a page of documentation; reads none of yours.")
@click.pass_context
def config(ctx: click.Context, *, as_json: bool, changed: bool, reference: bool) -> None:
    """Show the settings in force, and where each is from.

    Secrets are masked. Fails with one line if a setting is wrong, so it is a check, too.

    Examples:
      reranking config --changed
      reranking config --json | jq .settings.port
      reranking config --config candidate.yaml && echo good
      reranking config init --port 9000
    """
    from webapp.config.reference import as_reference, effective  # noqa: PLC0415

    if ctx.invoked_subcommand:
        return
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


@config.command(cls=SettingsCommand)
@click.argument("file", type=click.Path(path_type=Path), default=Path("reranking.yaml"))
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def init(*, file: Path, force: bool) -> None:
    """Write a settings FILE with comments (reranking.yaml).

    What is set now, by flag, variable or file, is set in it; every other setting is a comment with its default. API
    keys are written, too, so only its owner may read the file.

    Examples:
      reranking config init --port 9000 --workers 2
      reranking config init /etc/reranking.yaml --force
    """
    from webapp.config.reference import as_file  # noqa: PLC0415

    settings, sources = load_with_sources()
    if file.exists() and not force:
        raise click.ClickException(f"{file} is there; --force replaces it")
    part = file.with_name(f".{file.name}.{os.getpid()}")
    part.touch(mode=0o600)
    part.write_text(as_file(settings, sources), encoding="utf-8")
    part.replace(file)
    click.echo(
        f"{file} is written; use it with --config, or RERANK_CONFIG, or by its name in the directory of the command"
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
