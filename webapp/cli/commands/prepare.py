"""`reranking prepare`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from webapp.cli.settings_flags import SettingsCommand, load


@click.command(cls=SettingsCommand)
@click.option("--again", is_flag=True, help="Even if it is prepared, as after the hub came back.")
@click.option(
    "--calibration-data",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help='Lines of {"query", "documents"} to quantize and judge by; prepares again.',
)
def command(*, again: bool, calibration_data: Path | None) -> None:
    """Fetch, convert and check the model, so that it can serve.

    Examples:
      reranking prepare
      reranking prepare --model BAAI/bge-reranker-base --precision int8
      reranking prepare --calibration-data mine.jsonl
    """
    from webapp.engine.prepare.pipeline import prepare  # noqa: PLC0415

    data = {"calibration_data": calibration_data} if calibration_data else {}
    terminal = sys.stdout if sys.stdout.isatty() else None
    manifest = prepare(load(), click.echo, again=again or bool(data), terminal=terminal, **data)
    if manifest is not None:
        click.echo(f"{manifest.model} is ready to serve in {manifest.precision}")
