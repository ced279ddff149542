"""The `reranking` command. It parses, calls and prints; a command loads what is heavy when it runs."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Literal

import click
from click.shell_completion import get_completion_class

from webapp import __version__
from webapp.cli.commands import COMMANDS
from webapp.cli.commands.config import config
from webapp.cli.commands.keys import keys
from webapp.domain.errors import SetupError

FAILED = 1
"""The command failed; one line on stderr says why. 2 is click's own, for a wrong command line."""

INTERRUPTED = 130
"""The shells' exit code for Ctrl-C."""

RENAMED = {"build": "config init"}
"""Commands of earlier versions -> their names now."""

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
    """A group that names the nearest command where there is none of a name."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve as click does; name the nearest command in errors."""
        if renamed := RENAMED.get(args[0]):
            ctx.fail(f"there is no command {args[0]!r}; it is called reranking {renamed} now")
        if args[0] not in self.commands and not args[0].startswith("-"):
            nearest = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            ctx.fail(f"there is no command {args[0]!r}" + (f"; did you mean {nearest[0]}?" if nearest else ""))
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, commands=COMMANDS, epilog=EPILOGUE, context_settings={"max_content_width": 110})
@click.version_option(__version__, message="%(version)s")
def reranking() -> None:
    """Run a reranking service, inspect it, ask it."""


@reranking.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(*, shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print what makes a shell complete commands and flags.

    Examples:
      eval "$(reranking completion bash)"
      reranking completion zsh > ~/.zfunc/_reranking
      reranking completion fish > ~/.config/fish/completions/reranking.fish
    """
    kind = get_completion_class(shell)
    click.echo(kind(reranking, {}, "reranking", "_RERANKING_COMPLETE").source())


for _command in (*reranking.commands.values(), *config.commands.values(), *keys.commands.values()):
    # click's mark of a paragraph that is not to be filled.
    _command.help = inspect.cleandoc(_command.help or "").replace("\n\nExample", "\n\n\b\nExample")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code; an error is one line on stderr."""
    try:
        code: Any = reranking.main(arguments, prog_name="reranking", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "reranking"
        _end(f"{error.format_message()} (see {path} --help)", error.exit_code)
    except (click.ClickException, SetupError) as error:
        # The system's errors are complete in one line; those of a library may need a traceback.
        is_foreign = error.__cause__ is not None and getattr(error.__cause__, "errno", None) is None
        if is_foreign and os.environ.get("RERANK_LOG_LEVEL", "").lower() == "debug":
            traceback.print_exception(error)
        _end(error.format_message() if isinstance(error, click.ClickException) else str(error), FAILED)
    except BrokenPipeError:
        # Our reader, such as `head`, has enough. Output that Python still holds must not fail again at exit.
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
