"""The `reranking` command; thin: parses, calls, prints."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from webapp import __version__
from webapp.errors import SetupError
from webapp.settings import load_settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exits 1 with one line on what is wrong and how to mend it."""
    chosen = _parser().parse_args(arguments)
    try:
        chosen.run(chosen)
    except SetupError as error:
        print(f"reranking: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="reranking", description="A reranking service. Settings: RERANK_* variables.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="run the whole stack in the foreground: supervisord, webapp, nginx")
    command.set_defaults(run=_serve)

    command = commands.add_parser("run", help="run the API alone, without nginx and supervisor")
    command.add_argument("--reload", action="store_true", help="restart when a source file changes (development)")
    command.add_argument(
        "--bind", default=None, metavar="ADDRESS", help="host:port or unix:path; default: RERANK_HOST:RERANK_PORT"
    )
    command.set_defaults(run=_run)

    command = commands.add_parser("drain", help="take a running stack out of service; nothing admitted is lost")
    command.add_argument(
        "--notice-s", type=float, default=5.0, metavar="S", help="how long /ready says 503 first (default 5)"
    )
    command.set_defaults(run=_drain)

    command = commands.add_parser("prepare", help="fetch, convert and check the model")
    command.add_argument("--again", action="store_true", help="even if it is prepared, as after the hub came back")
    command.add_argument(
        "--calibration-data",
        type=Path,
        metavar="FILE.jsonl",
        help='lines of {"query", "documents"}; prepares again',
    )
    command.set_defaults(run=_prepare)
    return parser


def _serve(_chosen: argparse.Namespace) -> None:
    from webapp.stack import serve  # noqa: PLC0415 - each command loads what it needs

    serve(load_settings())


def _drain(chosen: argparse.Namespace) -> None:
    from webapp.draining import drain  # noqa: PLC0415

    drain(load_settings(), notice_s=chosen.notice_s, say=lambda line: print(line, flush=True))


def _prepare(chosen: argparse.Namespace) -> None:
    from webapp.engine.prepare.pipeline import prepare  # noqa: PLC0415

    data = {"calibration_data": chosen.calibration_data} if chosen.calibration_data else {}
    manifest = prepare(load_settings(), lambda line: print(line, flush=True), again=chosen.again or bool(data), **data)
    if manifest is not None:
        print(f"{manifest.model} is ready to serve in {manifest.precision}", flush=True)


def _run(chosen: argparse.Namespace) -> None:
    """Gunicorn from inside the program, by the same configuration file."""
    from gunicorn.app.wsgiapp import WSGIApplication  # noqa: PLC0415

    from webapp.rendering import ROOT  # noqa: PLC0415

    settings = load_settings()
    settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    arguments = ["-c", str(ROOT / "gunicorn_config.py"), "-b", chosen.bind or f"{settings.host}:{settings.port}"]
    if chosen.reload:
        arguments.append("--reload")
        os.environ["RERANK_RELOAD"] = "1"  # read by gunicorn_config.py
    sys.argv = ["reranking", *arguments]
    WSGIApplication("%(prog)s").run()
