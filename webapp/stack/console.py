"""Output of the stack and its programs: into log files, or all of it to stdout."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from contracts.logging.line import Form, head, renderer
from contracts.logging.lossy_pipe import refuse_when_full
from contracts.logging.writer import never_wait
from webapp.config.paths import program
from webapp.config.settings import Settings


class Console:
    """Prints the lines of `reranking serve`, and starts programs so that their lines go to the same place."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._to_stdout = settings.log_to == "stdout"
        self.form: Form = "json"
        if settings.log_format == "human" or (settings.log_format == "auto" and self._to_stdout and _terminal()):
            self.form = "color" if self._to_stdout and _terminal() else "human"

    def supervisord(self) -> list[str]:
        """Return the command of supervisord, which writes the programs' lines; its own arguments follow."""
        options = ["--to", self._settings.log_to, "--form", self.form, "--color", self._settings.color]
        return program("webapp.stack.supervisor.logging", *options)

    @property
    def stdout(self) -> int | None:
        """Supervisord's stdout, as `subprocess` has it."""
        return None if self._to_stdout else subprocess.DEVNULL

    def never_wait(self) -> None:
        """Write this process' output from threads, since its reader may stop or be gone."""
        never_wait(lambda message: f"{self._line(message)}\n".encode(), "stdout", "stderr")

    def say(self, message: str) -> None:
        """Print a line; among the programs' lines on stdout it is a log line like theirs."""
        print(self._line(message), flush=True)

    def _line(self, message: str) -> str:
        if not self._to_stdout:
            return message
        event = head(time.time(), "info", "serve", self._settings.color, os.getpid(), "webapp.stack.serve", message)
        return renderer(self.form)(event)

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a program that prints plain lines; on a terminal it may draw."""
        pipe = subprocess.PIPE if self._to_stdout or not _terminal() else None
        return subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT if pipe else None)

    def relay(self, program: subprocess.Popen[bytes]) -> None:
        """Print the lines of a program that was started so, until it ends."""
        for line in program.stdout or ():
            if line.strip():
                self.say(line.decode(errors="replace").strip())

    def start_nginx(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start nginx and relay its lines as they are; nginx never waits for their reader."""
        read_end, write_end = os.pipe()
        refuse_when_full(write_end)
        process = subprocess.Popen(command, stdout=write_end, stderr=write_end, **options)
        os.close(write_end)
        threading.Thread(target=_relay, args=[read_end]).start()
        return process

    def where(self, program: str) -> str:
        """Return where a program's lines are, for a message."""
        if self._to_stdout:
            return "its lines on stdout"
        path = self._settings.log_dir / f"{program}.log"
        return str(path) if path.exists() else "its lines above"  # supervisord's, before it has read where to write


def _relay(pipe: int) -> None:
    """Relay the lines of a pipe, until its last writer ends."""
    with os.fdopen(pipe, "rb") as lines:
        for line in lines:
            sys.stdout.buffer.write(line)


def _terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()  # None: it was closed before we began
