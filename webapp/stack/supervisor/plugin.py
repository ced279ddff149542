"""What our supervisord does beyond its own. It loads this by `supervisord.conf`; it runs inside supervisord's process.

**Doors stay open.** An fcgi-program's listening socket belongs to supervisord, which closes it when the program has
ended, so between the two halves of a restart nobody would listen. We keep a reference: who connects meanwhile waits
in the kernel's queue, and the new process answers. A program that stays stopped loses its door, so that nginx can
refuse at once; so does one whose socket somebody removed, for its next start then binds another.

**Nothing limps.** When a program without which nothing is served is given up (FATAL), supervisord stops the others and
exits with 1, so that whoever runs us, a container's runtime or systemd, learns of it. What serves is needed, even if
`.colors` can't be read.

**nginx ends when all are answered.** It would wait for clients who keep a connection and don't hang up.

**A clock that is set changes nothing.** supervisord goes by the time of day: set forward while a program stops, it
would kill that program at once.

**HUP restarts nothing.** To supervisord it means, as `supervisorctl reload` does, that all programs end and start anew.
Here keys and certificate are read again, as at HUP to `reranking serve`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supervisor.states import SupervisorStates

from supervisor import events, process, rpcinterface
from supervisor import supervisord as loop
from webapp.domain.clocks import AwakeClock, make_steady
from webapp.domain.errors import SetupError
from webapp.stack.nginx.traffic_split import FALLBACK, color_of
from webapp.stack.processes import NginxShutdown
from webapp.stack.releases import state
from webapp.stack.releases.roles import idle_runs, role_of
from webapp.stack.supervisor.client import program_of

EXIT_CODE = 1

POLL_S = 0.05

RESTART_S = 2.0
"""A program that has been stopped for longer isn't being restarted. We look at supervisor's ticks, every five s."""

STANDSTILL_S = 10.0
"""Between two of those ticks."""


def extend(
    supervisord: Any, *, needed: str, state_dir: str, given_up: str, clock: Callable[[], float] = time.monotonic
) -> object:
    """Begin; supervisor calls this for an "rpcinterface" and wants an object with its remote calls. There are none.

    Args:
        supervisord: the one we are in.
        needed: programs without which nothing is served, comma-separated; the active color's is one, too.
        state_dir: where it is written which color that is.
        given_up: path of the file that gets the name of the one that was given up.
        clock: monotonic seconds.
    """
    make_steady(process, rpcinterface, loop)
    names = frozenset(name.strip() for name in needed.split(","))
    return _Supervision(supervisord, names, Path(state_dir), Path(given_up), clock)


class _Supervision:
    """Callbacks of supervisor's own events; all run in its one thread."""

    def __init__(
        self,
        supervisord: Any,
        needed: frozenset[str],
        state_dir: Path,
        given_up: Path,
        clock: Callable[[], float],
    ) -> None:
        self._supervisord = supervisord
        self._needed = needed
        self._state_dir = state_dir
        self._given_up = given_up
        self._parent = os.getppid()
        self._doors: dict[str, Any] = {}
        """Group -> supervisor's reference to its listening socket, which is closed with the last one."""
        self._stopped_at: dict[str, float] = {}
        """Group -> monotonic time."""
        self._clock = clock
        self._awake = AwakeClock(STANDSTILL_S, clock)
        events.subscribe(events.ProcessStateStartingEvent, self._hold)
        events.subscribe(events.ProcessStateStoppedEvent, self._note_the_end)
        events.subscribe(events.ProcessStateExitedEvent, self._note_the_end)
        events.subscribe(events.Tick5Event, self._let_go)
        events.subscribe(events.ProcessStateStoppingEvent, self._part)
        events.subscribe(events.SupervisorStoppingEvent, lambda _: self._doors.clear())
        events.subscribe(events.ProcessStateFatalEvent, self._end)
        supervisord.reload = self._reload

    def _hold(self, event: Any) -> None:
        group = event.process.group
        self._tell_of_idle(group.config.name)
        self._stopped_at.pop(group.config.name, None)
        if hasattr(group, "socket_manager") and group.config.name not in self._doors:
            self._doors[group.config.name] = group.socket_manager.get_socket()

    def _tell_of_idle(self, program: str) -> None:
        """`supervisorctl` starts the idle color without a word; a deploy writes its attempt down before."""
        with contextlib.suppress(SetupError):
            colors = state.read(self._state_dir)
            if colors and not colors.attempt and role_of(program, colors) == "idle":
                self._supervisord.options.logger.warn(idle_runs(program))  # noqa: G010 - its own

    def _note_the_end(self, event: Any) -> None:
        group = event.process.group
        self._stopped_at[group.config.name] = self._clock()
        if group.config.name in self._doors and not Path(group.socket_manager.config().path).exists():
            del self._doors[group.config.name]

    def _let_go(self, _event: Any) -> None:
        awake_s = self._awake.look()  # after a standstill, whoever restarts a program has not been heard yet
        for name, at in list(self._stopped_at.items()):
            if min(self._clock() - at, awake_s) >= RESTART_S:
                del self._stopped_at[name]
                self._doors.pop(name, None)

    def _part(self, event: Any) -> None:
        process = event.process
        if process.config.name == "nginx":
            threading.Thread(target=self._see_off, args=(process, process.pid), daemon=True).start()

    def _see_off(self, process: Any, pid: int) -> None:
        """Look after an nginx that was told to quit, until supervisord has seen its end."""
        shutdown = NginxShutdown(self._state_dir / "run")
        while process.pid == pid:
            shutdown.step()
            time.sleep(POLL_S)

    def _reload(self) -> None:
        """Leave it to `reranking serve`, for whose calls supervisord has to be free."""
        self._supervisord.options.logger.info("nothing is restarted: keys and certificate are read again")
        if os.getppid() == self._parent:  # else it has died, and we end
            os.kill(self._parent, signal.SIGHUP)

    def _end(self, event: Any) -> None:
        name = event.process.config.name
        if name not in self._needed and name not in self._serving():
            return
        self._doors.clear()  # who waits there is told
        self._supervisord.options.logger.critical("%(name)s was given up: everything is stopped", name=name)
        self._supervisord.options.mood = SupervisorStates.SHUTDOWN
        # Supervisor has no way to choose its exit code; by then all has been stopped in order.
        atexit.register(os._exit, EXIT_CODE)
        with contextlib.suppress(OSError):  # a full disk may be why
            self._given_up.write_text(name)

    def _serving(self) -> set[str]:
        """The program of the color that serves; a new color that does not start ends nothing.

        Where `.colors` can't tell, the link that always names a color that serves does; without that, both may serve.
        """
        colors = None
        with contextlib.suppress(SetupError):
            colors = state.read(self._state_dir)
        active = colors.active if colors else color_of(self._given_up.parent / FALLBACK, state.COLORS)
        return {program_of(color) for color in state.COLORS if active in {color, ""}}
