"""What a command says as it goes on."""

from __future__ import annotations

import sys

import click

CLEAR_LINE = "\r\x1b[2K"


class Terminal:
    """Prints lines; a figure that changes is drawn in place where a terminal reads."""

    def __init__(self) -> None:
        self.draws = sys.stdout.isatty()
        self._drawn = False

    def say(self, line: str) -> None:
        """Print a line, in place of what was drawn."""
        click.echo(f"{CLEAR_LINE if self._drawn else ''}{line}")
        self._drawn = False

    def draw(self, line: str) -> None:
        """Draw a line that the next one replaces."""
        click.echo(f"{CLEAR_LINE}{line}", nl=False)
        self._drawn = True
