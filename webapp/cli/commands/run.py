"""`reranking run`."""

from __future__ import annotations

import os
import sys

import click

from webapp.cli.settings_flags import SettingsCommand, load


@click.command(cls=SettingsCommand)
@click.option("--reload", is_flag=True, help="Restart when a source file changes (development).")
@click.option("--bind", metavar="ADDRESS", help="host:port or unix:path; default: the settings' host and port.")
def command(*, reload: bool, bind: str | None) -> None:
    """Run the API alone, without nginx and supervisor.

    The model has to be prepared: reranking prepare.

    Examples:
      reranking run --reload --engine stub
      reranking run --bind unix:/tmp/reranking.sock
    """
    from gunicorn.app.wsgiapp import WSGIApplication  # noqa: PLC0415

    from webapp.config.paths import ROOT  # noqa: PLC0415

    settings = load()
    settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    arguments = ["-c", str(ROOT / "gunicorn_config.py"), "-b", bind or f"{settings.host}:{settings.port}"]
    if reload:
        arguments.append("--reload")
        os.environ["WEBAPP_RELOAD"] = "1"  # read by gunicorn_config.py
    sys.argv = ["reranking", *arguments]
    WSGIApplication("%(prog)s").run()
