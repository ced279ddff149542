"""Commands with a flag for every setting. The flags come from the model, which is loaded only when it is needed."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from webapp.config.sources import FILE_VARIABLE, Sources, flag, gather, variable

if TYPE_CHECKING:
    from webapp.config.settings import Settings

_CONFIG = click.Option(
    ["--config"],
    type=click.Path(),
    metavar="FILE",
    help="Settings file; default: RERANK_CONFIG, else ./reranking.yaml where there is one. Empty: none.",
)

_HELP = "webapp.cli.help"
_FLAGS = "webapp.cli.flags"
_FILE = "webapp.cli.file"


class SettingsCommand(click.Command):
    """Takes its own options, `--config`, and each setting."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note whether only help is asked for, which should not wait for the model."""
        ctx.meta[_HELP] = any(each in ctx.help_option_names for each in args)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return its own options, then the settings'."""
        own = [*super().get_params(ctx), _CONFIG]
        return own if ctx.meta.get(_HELP) and not isinstance(self, SettingsGroup) else [*own, *_setting_options()]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Mention the settings' flags where the help does not list them."""
        if not isinstance(self, SettingsGroup):
            with formatter.section("Settings"):
                formatter.write_text("Each is a flag here, too, such as --port 9000; see: reranking config --help")
        super().format_epilog(ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        """Put the flags into the environment, for this process and all that it starts."""
        given = {name: ctx.params.pop(name, None) for option in _setting_options() if (name := option.name)}
        flags = {name: value for name, value in given.items() if value is not None}
        for name, value in flags.items():
            os.environ[variable(name)] = str(value).lower() if isinstance(value, bool) else str(value)
        path = ctx.meta[_FILE] = ctx.params.pop("config", None)
        if path is not None:
            os.environ[FILE_VARIABLE] = path
        ctx.meta[_FLAGS] = frozenset(flags)
        return super().invoke(ctx)


class SettingsGroup(SettingsCommand, click.Group):
    """A group of such commands; its own help lists all settings, which are many."""


def load() -> Settings:
    """Return the settings of the command that runs.

    Raises:
        SetupError: they are wrong.
    """
    return load_with_sources()[0]


def given_flag(name: str) -> str | None:
    """Return the value of a setting's flag; None where the command line has none."""
    return os.environ[variable(name)] if name in click.get_current_context().meta[_FLAGS] else None


def load_running() -> Settings:
    """Return the settings of the stack that runs in the command's state directory, with the command's flags over them.

    If no stack runs, they are the command's own.

    Raises:
        SetupError: they are wrong.
    """
    from webapp.stack.instance import settings_of_stack  # noqa: PLC0415 - most commands look at no stack

    settings, sources = load_with_sources()
    return settings_of_stack(settings, sources.flags)


def load_candidate() -> Settings:
    """Return the settings of the file that the command line names, to be tried; without one, as `load_running`."""
    return load() if click.get_current_context().meta[_FILE] is not None else load_running()


def load_with_sources() -> tuple[Settings, Sources]:
    """Return the settings of the command that runs, and where they are from. Raises as above."""
    from webapp.config.settings import Settings, read_settings  # noqa: PLC0415 - pydantic takes a moment

    sources = gather(Settings.model_fields, click.get_current_context().meta[_FLAGS])
    return read_settings(sources), sources


@functools.cache
def _setting_options() -> tuple[click.Option, ...]:
    """Return an option for each setting. Secrets have none: other users see a process' command line."""
    from webapp.config.settings import Settings, is_secret  # noqa: PLC0415

    options = []
    for name, about in Settings.model_fields.items():
        if is_secret(name):
            continue
        spelled, kind, help_text = flag(name), about.annotation, about.description
        if kind is bool:
            options.append(click.Option([f"{spelled}/--no-{spelled[2:]}"], default=None, help=help_text))
        elif get_origin(kind) is Literal:
            options.append(click.Option([spelled], type=click.Choice(get_args(kind)), help=help_text))
        else:
            # Text of any kind: the model checks it, with the same messages as for a variable or the file.
            options.append(click.Option([spelled], metavar="VALUE", help=help_text))
    return tuple(options)
