"""`reranking keys`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from webapp.cli.settings_flags import SettingsCommand, load, load_running
from webapp.domain.errors import SetupError

RELOAD = "A running service reads the file when the stack gets HUP: kill -HUP, or systemctl reload."

_file = click.option(
    "--file", type=click.Path(path_type=Path), metavar="PATH", help="The key file; default: RERANK_API_KEYS_FILE."
)

_A_LIMIT = click.IntRange(0, 999_999_999)


@click.group(epilog=RELOAD)
def keys() -> None:
    """Make, list and remove API keys.

    Examples:
      reranking keys add search
      reranking keys add nightly --documents 100000
    """


def _action(function: Callable[..., None]) -> Any:
    return keys.command(cls=SettingsCommand, epilog=RELOAD)(_file(function))


@_action
@click.argument("name")
@click.option("--operator", is_flag=True, help="May see all requests on the dashboard.")
@click.option("--requests", type=_A_LIMIT, metavar="N", help="A minute, instead of everybody's limit; 0: any.")
@click.option("--documents", type=_A_LIMIT, metavar="N", help="A minute, instead of everybody's limit; 0: any.")
def add(*, name: str, file: Path | None, **rights: Any) -> None:
    """Make a key, show it once, and keep its hash. NAME is in the logs, and may have several keys."""
    from webapp.stack import key_admin  # noqa: PLC0415 - each command loads what it needs

    click.echo(key_admin.add(_path(file), name, **rights))


@_action
def list(*, file: Path | None) -> None:  # noqa: A001 - the command's name
    """List names and limits; the keys themselves are stored nowhere."""
    from webapp.stack import key_admin  # noqa: PLC0415

    for line in key_admin.listing(_path(file)):
        click.echo(line)


@_action
@click.argument("name")
@click.option("--oldest", is_flag=True, help="Only the first of them, as after a new one was handed out.")
def remove(*, name: str, oldest: bool, file: Path | None) -> None:
    """Remove the keys of a name."""
    from webapp.stack import key_admin  # noqa: PLC0415

    key_admin.remove(_path(file), name, oldest=oldest)


def _path(file: Path | None) -> Path:
    if file is not None:
        return file
    if given := load().api_keys_file or load_running().api_keys_file:
        return Path(given)
    raise SetupError("no key file is named; set RERANK_API_KEYS_FILE or give --file")
