"""`reranking logs`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from webapp.cli.settings_flags import SettingsCommand, load
from webapp.stack import log_files


@click.command(cls=SettingsCommand)
@click.argument("programs", nargs=-1, metavar="[PROGRAM]...")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines, until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(0), default=20, show_default=True, help="Begin with this many.")
@click.option("--request", metavar="ID", default="", help="Lines of this request alone.")
@click.option("--level", type=click.Choice(log_files.LEVELS), default="debug", help="Lines of this level and above.")
@click.option("--json", "as_json", is_flag=True, help="Lines as in the files; default without a terminal.")
def command(*, programs: tuple[str, ...], follow: bool, lines: int, request: str, level: str, as_json: bool) -> None:
    """Show the log lines of all PROGRAMs together, in order of time.

    Programs are webapp (both colors), webapp-blue, webapp-green, nginx, pusher, metrics, supervisord; without one,
    all of them. Rotated files are read as far as needed.

    Examples:
      reranking logs -f
      reranking logs -n 100 webapp nginx --level warning
      reranking logs --request 1234-abcd --json | jq .duration_ms
    """
    files = log_files.files_of(load().log_dir, programs)
    wanted = log_files.Filter(request, level).takes
    show = _shown(as_json=as_json or not sys.stdout.isatty())
    for line in log_files.last(files, lines, wanted):
        click.echo(show(line))
    if follow:
        for line in log_files.follow(files, wanted):
            click.echo(show(line))


def _shown(*, as_json: bool) -> Callable[[str], str]:
    if as_json:
        return lambda line: line
    from contracts.logging.foreign import ours  # noqa: PLC0415
    from contracts.logging.line import renderer  # noqa: PLC0415

    render = renderer("color")

    def text(line: str) -> str:
        event = ours(line)
        return line if event is None else render(event)  # with RERANK_LOG_FORMAT=human the files are text already

    return text
