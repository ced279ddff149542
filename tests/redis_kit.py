"""A real redis-server, and ways to harm it."""

from __future__ import annotations

import shutil
import signal
import subprocess

import pytest
from running import free_port, wait_for


class Redis:
    """A server on a port of its own that keeps nothing on disk."""

    def __init__(self, password: str = "") -> None:
        self.program = shutil.which("redis-server")
        if self.program is None:
            pytest.skip("redis-server is not installed")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._password = password

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        options += ["--requirepass", self._password] if self._password else []
        self.process = subprocess.Popen([self.program, *options], stdout=subprocess.DEVNULL)
        wait_for(lambda: self.command("ping").strip() in {"PONG", "NOAUTH Authentication required."}, "redis answers")

    def command(self, *words: str) -> str:
        command = [shutil.which("redis-cli"), "-p", str(self.port), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.kill()
