"""Supervisor's programs, over its socket: ask how they are, start, stop, signal."""

from __future__ import annotations

import contextlib
import math
import os
import signal as signals
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Error, Fault, ServerProxy  # our own supervisord answers, on our socket

from webapp.domain.errors import SetupError

POLL_S = 0.05

_DONT_WAIT = False

_RUNS = frozenset({"STARTING", "RUNNING", "BACKOFF", "STOPPING"})


class SupervisorError(SetupError):
    """Supervisor would not do what it was asked for, such as to signal what does not run."""


@dataclass(frozen=True, slots=True)
class Program:
    """How a program is."""

    name: str
    state: str
    """Supervisor's word: STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL, UNKNOWN."""
    pid: int
    uptime_s: int
    """Since its process began; 0 where it has none."""

    @property
    def up(self) -> bool:
        """Whether it has a process, or gets one again by itself."""
        return self.state in _RUNS


def program_of(color: str) -> str:
    """A color's program."""
    return f"webapp-{color}"


def _program(said: Any) -> Program:
    uptime_s = max(0, said["now"] - said["start"]) if said["pid"] else 0
    return Program(said["name"], said["statename"], said["pid"], uptime_s)


class Programs:
    """The programs of one stack."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def of(self, name: str) -> Program:
        """How a program is.

        Raises:
            SetupError: no stack runs here.
        """
        return _program(self._call("getProcessInfo", name))

    def all(self) -> list[Program]:
        """How all programs are. Raises as above."""
        return [_program(said) for said in self._call("getAllProcessInfo")]

    def start(self, name: str) -> None:
        """Start it, unless it runs; doesn't wait."""
        if not self.of(name).up:
            self._call("startProcess", name, _DONT_WAIT)

    def stop(
        self,
        name: str,
        *,
        patience_s: float,
        kill_after_s: float = math.inf,
        waits: Callable[[], None] = lambda: None,
    ) -> None:
        """Stop it and wait until it has ended; supervisor kills it when its own time for that is over.

        Args:
            name: of the program.
            patience_s: longest wait.
            kill_after_s: when to end it with all its processes; default: supervisor's own time for that.
            waits: called again and again meanwhile.

        Raises:
            SetupError: it did not end.
        """
        began, asked = time.monotonic(), False
        while (program := self.of(name)).up:
            if program.state != "STOPPING" and not asked:
                asked = True
                try:
                    self._call("stopProcess", name, _DONT_WAIT)
                except SupervisorError:  # it ended by itself
                    asked = False
            waited_s = time.monotonic() - began
            if waited_s > kill_after_s and program.pid:
                with contextlib.suppress(OSError):
                    os.killpg(program.pid, signals.SIGKILL)  # supervisor gives each program a group of its own
            if waited_s > patience_s:
                raise SetupError(f"{name} did not end within {patience_s:g} s")
            waits()
            time.sleep(POLL_S)

    def restart(self, name: str, *, patience_s: float, waits: Callable[[], None] = lambda: None) -> None:
        """Stop it as `stop` does and start it again; doesn't wait until it has come up."""
        self.stop(name, patience_s=patience_s, waits=waits)
        self.start(name)

    def signal(self, name: str, signal: str) -> None:
        """Send a signal to a program's first process.

        Raises:
            SupervisorError: it does not run.
            SetupError: no stack runs here.
        """
        self._call("signalProcess", name, signal)

    def _call(self, method: str, *arguments: Any) -> Any:
        from supervisor.xmlrpc import SupervisorTransport  # noqa: PLC0415 - untyped, and only needed here

        transport = SupervisorTransport("", "", f"unix://{self._run_dir / 'supervisor.sock'}")
        try:
            return getattr(ServerProxy("http://localhost", transport=transport).supervisor, method)(*arguments)
        except Fault as fault:
            raise SupervisorError(f"supervisor: {method}: {fault.faultString}") from fault
        except (OSError, Error) as error:
            raise SetupError(
                f"no stack runs in {self._run_dir.parent}; start it with reranking serve, or set RERANK_STATE_DIR"
            ) from error
        finally:
            transport.close()
