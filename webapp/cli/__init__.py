"""The `reranking` command; thin: parses, calls, prints. Nothing heavy is loaded before a command is chosen."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from webapp import __version__
from webapp.cli import commands
from webapp.domain.errors import SetupError

FAILED = 1
"""It did not work; one line on stderr says why. 2, click's own, is for a command line that makes no sense."""

INTERRUPTED = 130
"""As shells have it for Ctrl-C."""

EPILOGUE = """\b
Examples:
  reranking serve --port 9000               everything, in the foreground
  reranking config                          settings in force, and where each is from
  reranking status --watch                  programs, workers, rates
  reranking doctor                          what is wrong here, and its remedy
  reranking restart                         take over changed settings; no request is lost
  reranking logs -f                         follow all programs' logs
  reranking rerank "how do bees find home" notes.txt --top-k 3
  eval "$(reranking completion bash)"       completion in this shell

\b
Exit codes: 0 done, 1 failed (one line says why), 2 no such command or option, 130 interrupted;
of status: 3 impaired, 4 not serving; of doctor: 5 something has to be mended."""


class Commands(click.Group):
    """Finds commands by their modules; loads those that are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """Names of all."""
        return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a module."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"{commands.__name__}.{cmd_name}").command
        # click's mark of a paragraph that is not to be filled.
        command.help = inspect.cleandoc(command.help or "").replace("\n\nExample", "\n\n\b\nExample")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest name."""
        if args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            nearest = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            ctx.fail(f"there is no command {args[0]!r}" + (f"; did you mean {nearest[0]}?" if nearest else ""))
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, epilog=EPILOGUE, context_settings={"max_content_width": 110})
@click.version_option(__version__, message="%(version)s")
def reranking() -> None:
    """A reranking service: run it, look into it, ask it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; what goes wrong is one line on stderr, and the exit code says so."""
    try:
        code: Any = reranking.main(arguments, prog_name="reranking", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "reranking"
        _end(f"{error.format_message()} (see {path} --help)", error.exit_code)
    except (click.ClickException, SetupError) as error:
        # The system's own errors say all in their line; a library's may need to be traced.
        of_a_library = error.__cause__ is not None and getattr(error.__cause__, "errno", None) is None
        if of_a_library and os.environ.get("RERANK_LOG_LEVEL", "").lower() == "debug":
            traceback.print_exception(error)
        _end(error.format_message() if isinstance(error, click.ClickException) else str(error), FAILED)
    except BrokenPipeError:
        # Who reads us, `head` for one, has enough. What Python still holds must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(FAILED) from None
    except OSError as error:
        _end(f"{error.filename}: {error.strerror}" if error.filename else str(error), FAILED)
    except (click.Abort, KeyboardInterrupt):
        raise SystemExit(INTERRUPTED) from None
    raise SystemExit(code if isinstance(code, int) else 0)


def _end(message: str, code: int) -> None:
    click.echo(f"reranking: {' '.join(message.split())}", err=True)
    raise SystemExit(code) from None
