"""`reranking completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands and flags.

    Examples:
      eval "$(reranking completion bash)"
      reranking completion zsh > ~/.zfunc/_reranking
      reranking completion fish > ~/.config/fish/completions/reranking.fish
    """
    kind = get_completion_class(shell)
    if kind is None:  # click has all three
        raise click.ClickException(f"no completion for {shell}")
    click.echo(kind(ctx.find_root().command, {}, "reranking", "_RERANKING_COMPLETE").source())
