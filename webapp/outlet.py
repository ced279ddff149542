"""Where the lines of the stack and its programs go: into files, or all to stdout."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence

from logs.line import Form, renderer, stamp
from webapp.settings import Settings


class Outlet:
    """What `reranking serve` says, and how supervisord is told to keep what the programs say."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._to_stdout = settings.log_to == "stdout"
        self.form: Form = "json"
        if settings.log_format == "human" or (settings.log_format == "auto" and self._to_stdout and _terminal()):
            self.form = "colour" if self._to_stdout and _terminal() else "human"

    def keeper(self) -> list[str]:
        """The command that is supervisord; its own arguments come after."""
        options = ["--to", self._settings.log_to, "--form", self.form, "--colour", self._settings.colour]
        return [sys.executable, "-m", "logs.keeper", *options]

    @property
    def stdout(self) -> int | None:
        """What supervisord's stdout is."""
        return None if self._to_stdout else subprocess.DEVNULL

    def say(self, message: str) -> None:
        """A line of our own; among others on stdout it has their shape."""
        if self._to_stdout:
            event = {
                "time": stamp(time.time()),
                "level": "info",
                "service": "serve",
                "colour": self._settings.colour,
                "pid": os.getpid(),
                "logger": "webapp.stack",
                "message": message,
                "request_id": "",
            }
            message = renderer(self.form)(event)
        print(message, flush=True)

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a program that speaks in plain lines."""
        pipe = subprocess.PIPE if self._to_stdout else None
        return subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT if pipe else None)

    def pass_on(self, program: subprocess.Popen[bytes]) -> None:
        """Say what such a program says, until it ends."""
        for line in program.stdout or ():
            if line.strip():
                self.say(line.decode(errors="replace").strip())

    def where(self, program: str) -> str:
        """Where a program's lines are, for a message."""
        if self._to_stdout:
            return "its lines on stdout"
        path = self._settings.log_dir / f"{program}.log"
        return str(path) if path.exists() else "its lines above"  # supervisord's, before it has read where to write


def _terminal() -> bool:
    return sys.stdout.isatty()
