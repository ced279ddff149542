"""The whole stack as a user starts it, and ways to look into it and to harm it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import psutil
import requests

from contracts.logging.writer import TOGETHER_S

PATIENCE_S = 400.0
"""Longest wait for what a test asserts. Only a failing test waits that long: other programs may take the cores."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, what, patience_s=PATIENCE_S):
    """Poll until `condition()` is truthy and return it."""
    give_up = time.monotonic() + patience_s
    while time.monotonic() < give_up:
        if result := condition():
            return result
        time.sleep(0.02)
    raise AssertionError(f"waited {patience_s:g} s in vain: {what}")


def alive(process: psutil.Process) -> bool:
    """Whether a process still does something; a dead one may wait for its parent to notice."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def stopped(*pids: int):
    """Let processes run and do nothing, inside `with`."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it was found hanging, and replaced
                os.kill(pid, signal.SIGCONT)


class Stack:
    """`reranking serve` in a process of its own."""

    command = ("serve",)
    prefix: tuple[str, ...] = ()
    """What runs it."""
    python = sys.executable

    def __init__(self, state_dir: Path, *, artifacts_from: Path | None = None, **variables: str) -> None:
        self.state_dir = state_dir
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        if artifacts_from is not None and not (state_dir / "models").exists():
            shutil.copytree(artifacts_from / "models", state_dir / "models")
        self._environment = {
            **os.environ,
            "RERANK_CONFIG": "",  # a developer's own file must not change what tests see
            "RERANK_PORT": str(self.port),
            "RERANK_STATE_DIR": str(state_dir),
            "RERANK_LOG_LEVEL": "debug",
            # The artifact that fixtures have prepared; exact, whatever this processor would choose.
            "RERANK_ENGINE": "openvino",
            "RERANK_PRECISION": "fp32",
            **{f"RERANK_{name.upper()}": value for name, value in variables.items()},
        }
        self.said = ""

    def start(self) -> Self:
        self.begin()
        try:
            self.said = wait_for(self._first_words, "the stack says that it is ready, or why not")
        except AssertionError:
            self.kill()
            raise
        assert "Ready: " in self.said, self.said
        return self

    def begin(self, output: Path | None = None) -> subprocess.Popen:
        """Start without waiting."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        self._output = output or self.state_dir / "serve.out"
        with self._output.open("w") as said:
            self.process = subprocess.Popen(
                [*self.prefix, self.python, "-m", "webapp", *self.command],
                env=self._environment,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        return self.process

    def _first_words(self) -> str:
        said = self._output.read_text()
        return said if "Ready: " in said or self.process.poll() is not None else ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop as Ctrl-C or a service manager does; returns the exit code."""
        family = self.family()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(PATIENCE_S)
        finally:
            left = [process for process in family if alive(process)]
            for process in left:
                process.kill()
        assert not left, f"left behind: {left}"
        return code

    def kill(self) -> None:
        """End every process at once, without a word."""
        family = self.family()
        self.process.kill()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):  # a child whose parent dies ends by itself
                process.kill()
        self.process.wait(PATIENCE_S)
        wait_for(lambda: not any(map(alive, family)), "all are dead")

    def family(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def colors(self) -> dict:
        """What `.colors` says."""
        return json.loads((self.state_dir / ".colors").read_text())

    def program(self, name: str) -> str:
        """A program as supervisor names it; `webapp` is the one that is active."""
        return f"webapp-{self.colors()['active']}" if name == "webapp" else name

    def pid_of(self, program: str) -> int | None:
        """Pid of a program by supervisor's word: the gunicorn master, or nginx' master."""
        said = self.supervisorctl("pid", self.program(program)).strip()
        return int(said) if said.isdigit() and said != "0" else None

    def workers(self) -> list[int]:
        master = self.pid_of("webapp")
        try:
            return [child.pid for child in psutil.Process(master).children()] if master else []
        except psutil.NoSuchProcess:
            return []

    def supervisorctl(self, *arguments: str) -> str:
        command = [
            sys.executable,
            "-m",
            "supervisor.supervisorctl",
            "-s",
            f"unix://{self.state_dir}/run/supervisor.sock",
        ]
        arguments = [self.program(name) for name in arguments]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False).stdout

    def rerank(self, documents=("bees find home", "milk"), **options) -> requests.Response:
        body = {"query": "how do bees find home", "documents": list(documents), **options.pop("body", {})}
        return requests.post(f"{self.url}/rerank", json=body, timeout=PATIENCE_S, **options)

    def log_lines(self, program: str) -> list[dict]:
        """What a program's log holds; what was said before the call is there."""
        time.sleep(5 * TOGETHER_S)  # supervisord puts lines together for that long, and tells nobody when it has
        return [
            json.loads(line)
            for line in (self.state_dir / "log" / f"{self.program(program)}.log").read_text().splitlines()
        ]

    def logged(self, program: str, matches: Callable[[dict], object], count: int = 1) -> list[dict]:
        """Lines of a program's log, once so many match: a line may be on its way when the reply is here."""

        def lines():
            found = [line for line in self.log_lines(program) if matches(line)]
            return found if len(found) >= count else None

        return wait_for(lines, f"{count} lines of {program}")

    def raw(self, source: str = "127.0.0.1") -> socket.socket:
        """A bare connection to nginx."""
        connection = socket.create_connection(("127.0.0.1", self.port), PATIENCE_S, (source, 0))
        connection.settimeout(PATIENCE_S)
        return connection
