"""`reranking build`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from webapp.cli.settings_flags import SettingsCommand, load_with_sources


@click.command(cls=SettingsCommand)
@click.argument("file", type=click.Path(path_type=Path), default=Path("reranking.yaml"))
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def command(*, file: Path, force: bool) -> None:
    """Write a settings FILE with comments (reranking.yaml).

    What is set now, by flag, variable or file, is set in it; the rest stands there as a comment with its default.
    API keys are written, too, so the file is for its owner alone.

    Examples:
      reranking build --port 9000 --workers 2
      reranking build /etc/reranking.yaml --force
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
