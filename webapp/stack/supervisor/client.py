"""The client of our supervisord: the state of its programs; start, stop and signal them."""

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

GIVEN_UP = "given-up"
"""The file in the run directory where supervisord writes the name of a needed program that it gave up."""

POLL_S = 0.05

_DONT_WAIT = False

_UP = frozenset({"STARTING", "RUNNING", "BACKOFF", "STOPPING"})


class SupervisorError(SetupError):
    """supervisord refused a call, such as a signal to a program that does not run."""


@dataclass(frozen=True, slots=True)
class Program:
    """The state of a program."""

    name: str
    state: str
    """supervisor's name of it: STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL or UNKNOWN."""
    pid: int
    """0 where it has no process."""
    uptime_s: int
    """Seconds since its process began; 0 where it has none."""

    @property
    def up(self) -> bool:
        """Return whether it has a process, or supervisor will start one again."""
        return self.state in _UP


def _program(info: Any) -> Program:
    uptime_s = max(0, info["now"] - info["start"]) if info["pid"] else 0
    return Program(info["name"], info["statename"], info["pid"], uptime_s)


class Programs:
    """The programs of one stack.

    Every method raises SetupError where no stack runs, and SupervisorError where supervisord refuses the call.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def of(self, name: str) -> Program:
        """Return the state of a program."""
        return _program(self._call("getProcessInfo", name))

    def all(self) -> list[Program]:
        """Return the states of all programs."""
        return [_program(info) for info in self._call("getAllProcessInfo")]

    def supervisord_pid(self) -> int:
        """Return the pid of supervisord, whose environment all programs have."""
        return int(self._call("getPID"))

    def start(self, name: str) -> None:
        """Start a program unless it is up; don't wait."""
        if not self.of(name).up:
            self._call("startProcess", name, _DONT_WAIT)

    def stop(
        self,
        name: str,
        *,
        timeout_s: float,
        kill_after_s: float = math.inf,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        """Stop a program and wait until it has ended. supervisord kills it after its `stopwaitsecs`.

        Args:
            name: of the program.
            timeout_s: longest wait.
            kill_after_s: when to kill its process group; default: leave that to supervisord.
            on_wait: called at each turn of the wait.

        Raises:
            SetupError: it did not end in time.
        """
        began, requested = time.monotonic(), False
        while (program := self.of(name)).up:
            if program.state != "STOPPING" and not requested:
                with contextlib.suppress(SupervisorError):  # it ended by itself
                    self._call("stopProcess", name, _DONT_WAIT)
                    requested = True
            waited_s = time.monotonic() - began
            if waited_s > kill_after_s and program.pid:
                with contextlib.suppress(OSError):
                    os.killpg(program.pid, signals.SIGKILL)  # supervisor gives each program a group of its own
            if waited_s > timeout_s:
                raise SetupError(f"{name} did not end within {timeout_s:g} s")
            on_wait()
            time.sleep(POLL_S)

    def restart(self, name: str, *, timeout_s: float, on_wait: Callable[[], None] = lambda: None) -> None:
        """Stop a program as `stop` does and start it again; don't wait until it is up."""
        self.stop(name, timeout_s=timeout_s, on_wait=on_wait)
        self.start(name)

    def signal(self, name: str, signal: str) -> None:
        """Send a signal, such as "HUP", to a program's first process.

        Raises:
            SupervisorError: it does not run.
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
