"""Where the lines of the stack and its programs go: into files, or all to stdout."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from contracts.logging.line import Form, renderer, stamp
from contracts.logging.lossy_pipe import refuse_when_full
from contracts.logging.writer import never_wait
from webapp.config.paths import program
from webapp.config.settings import Settings


class Console:
    """What `reranking serve` says, and how supervisord is told to keep what the programs say."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._to_stdout = settings.log_to == "stdout"
        self.form: Form = "json"
        if settings.log_format == "human" or (settings.log_format == "auto" and self._to_stdout and _terminal()):
            self.form = "color" if self._to_stdout and _terminal() else "human"

    def keeper(self) -> list[str]:
        """The command that is supervisord; its own arguments come after."""
        options = ["--to", self._settings.log_to, "--form", self.form, "--color", self._settings.color]
        return program("webapp.stack.supervisor.logging", *options)

    @property
    def stdout(self) -> int | None:
        """What supervisord's stdout is."""
        return None if self._to_stdout else subprocess.DEVNULL

    def never_wait(self) -> None:
        """Have what this process says written from threads: whoever reads us may stop, or be gone."""
        never_wait(lambda message: f"{self._line(message)}\n".encode(), "stdout", "stderr")

    def say(self, message: str) -> None:
        """A line of our own; among others on stdout it has their shape."""
        print(self._line(message), flush=True)

    def _line(self, message: str) -> str:
        if not self._to_stdout:
            return message
        event = {
            "time": stamp(time.time()),
            "level": "info",
            "service": "serve",
            "color": self._settings.color,
            "pid": os.getpid(),
            "logger": "webapp.stack.serve",
            "message": message,
            "request_id": "",
        }
        return renderer(self.form)(event)

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a program that speaks in plain lines; on a terminal it may draw."""
        pipe = subprocess.PIPE if self._to_stdout or not _terminal() else None
        return subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT if pipe else None)

    def pass_on(self, program: subprocess.Popen[bytes]) -> None:
        """Say what such a program says, until it ends."""
        for line in program.stdout or ():
            if line.strip():
                self.say(line.decode(errors="replace").strip())

    def start_nginx(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start nginx, whose lines become ours as they are; it waits for nobody who reads them."""
        taken, given = os.pipe()
        refuse_when_full(given)
        process = subprocess.Popen(command, stdout=given, stderr=given, **options)
        os.close(given)
        threading.Thread(target=_relay, args=[taken]).start()
        return process

    def where(self, program: str) -> str:
        """Where a program's lines are, for a message."""
        if self._to_stdout:
            return "its lines on stdout"
        path = self._settings.log_dir / f"{program}.log"
        return str(path) if path.exists() else "its lines above"  # supervisord's, before it has read where to write


def _relay(pipe: int) -> None:
    """Say what comes out of a pipe, until its last writer ends."""
    with os.fdopen(pipe, "rb") as lines:
        for line in lines:
            sys.stdout.buffer.write(line)


def _terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()  # None: it was closed before we began
