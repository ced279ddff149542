"""Extensions of our supervisord. `supervisord.conf` loads this module into supervisord's process.

**Sockets stay open.** An fcgi-program's listening socket belongs to supervisord, which closes it when the program has
ended, so between the two halves of a restart nobody would listen. We keep a reference: clients wait in the kernel's
queue meanwhile, and the new process answers. A program that stays stopped loses its socket, so that nginx can refuse at
once; so does a program whose socket file was removed, for its next start then binds another one.

**A lost program ends the stack.** When a program is given up (FATAL) without which nothing is served, supervisord stops
the others and exits with 1, so that a container's runtime or systemd notices. The color that serves is needed even if
`.colors` can't be read.

**nginx ends when all requests are answered.** It would wait for clients that keep an idle connection open.

**A change of the system's clock has no effect.** supervisord uses the time of day: set forward while a program stops,
the clock would make it kill that program at once.

**HUP restarts nothing.** In supervisord it means, as `supervisorctl reload` does, that all programs end and start anew.
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
from webapp.domain.concurrency import AwakeClock, make_steady
from webapp.domain.errors import SetupError
from webapp.stack.nginx.traffic_split import FALLBACK, color_of
from webapp.stack.processes import NginxShutdown
from webapp.stack.releases import state
from webapp.stack.supervisor.client import GIVEN_UP

EXIT_CODE = 1

POLL_S = 0.05

RESTART_S = 2.0
"""A program that has been stopped for longer is not being restarted. Checked at supervisor's ticks, every 5 s."""

STANDSTILL_S = 10.0
"""A longer time between two of those ticks means that this process, or the machine, stood still."""


class Extensions:
    """Handlers of supervisor's events, all run in its one thread.

    supervisor makes one for an "rpcinterface" section of its configuration. Its public methods would be remote calls;
    it has none.
    """

    def __init__(self, supervisord: Any, *, state_dir: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Subscribe to the events.

        Args:
            supervisord: the Supervisor object of this process.
            state_dir: directory of `.colors`, which names the active color, and of `run`.
            clock: monotonic seconds.
        """
        make_steady(process, rpcinterface, loop)
        self._supervisord = supervisord
        self._state_dir = Path(state_dir)
        self._run_dir = self._state_dir / "run"
        self._parent = os.getppid()
        self._sockets: dict[str, Any] = {}
        """Group -> supervisor's reference to its listening socket, which is closed with the last reference."""
        self._stopped_at: dict[str, float] = {}
        """Group -> monotonic time."""
        self._clock = clock
        self._awake = AwakeClock(STANDSTILL_S, clock)
        events.subscribe(events.ProcessStateStartingEvent, self._keep_socket)
        events.subscribe(events.ProcessStateStoppedEvent, self._note_end)
        events.subscribe(events.ProcessStateExitedEvent, self._note_end)
        events.subscribe(events.Tick5Event, self._drop_sockets)
        events.subscribe(events.ProcessStateStoppingEvent, self._watch_nginx)
        events.subscribe(events.SupervisorStoppingEvent, lambda _: self._sockets.clear())
        events.subscribe(events.ProcessStateFatalEvent, self._end_stack)
        supervisord.reload = self._reload

    def _keep_socket(self, event: Any) -> None:
        group = event.process.group
        self._warn_of_idle(group.config.name)
        self._stopped_at.pop(group.config.name, None)
        if hasattr(group, "socket_manager") and group.config.name not in self._sockets:
            self._sockets[group.config.name] = group.socket_manager.get_socket()

    def _warn_of_idle(self, program: str) -> None:
        """Warn when `supervisorctl` starts the idle color; a deploy has written its attempt down before."""
        with contextlib.suppress(SetupError):
            colors = state.read(self._state_dir)
            if colors and not colors.attempt and state.role_of(program, colors) == "idle":
                self._supervisord.options.logger.warn(state.idle_warning(program))  # noqa: G010 - its own

    def _note_end(self, event: Any) -> None:
        group = event.process.group
        self._stopped_at[group.config.name] = self._clock()
        if group.config.name in self._sockets and not Path(group.socket_manager.config().path).exists():
            del self._sockets[group.config.name]

    def _drop_sockets(self, _event: Any) -> None:
        awake_s = self._awake.look()  # after a standstill, a request to restart a program may still wait
        for name, at in list(self._stopped_at.items()):
            if min(self._clock() - at, awake_s) >= RESTART_S:
                del self._stopped_at[name]
                self._sockets.pop(name, None)

    def _watch_nginx(self, event: Any) -> None:
        """Close idle connections of an nginx that was told to quit, on a thread, until supervisord has seen its end."""
        process, pid = event.process, event.process.pid
        if process.config.name != "nginx":
            return

        def watch() -> None:
            shutdown = NginxShutdown(self._run_dir)
            while process.pid == pid:
                shutdown.step()
                time.sleep(POLL_S)

        threading.Thread(target=watch, daemon=True).start()

    def _reload(self) -> None:
        """Send HUP to `reranking serve`, which calls supervisord, so supervisord must not wait for it."""
        self._supervisord.options.logger.info("nothing is restarted: keys and certificate are read again")
        if os.getppid() == self._parent:  # else it has died, and we end
            os.kill(self._parent, signal.SIGHUP)

    def _end_stack(self, event: Any) -> None:
        name = event.process.config.name
        if name != "nginx" and name not in self._serving():  # the pusher is not needed
            return
        self._sockets.clear()  # clients that wait there get an error now
        self._supervisord.options.logger.critical("%(name)s was given up: everything is stopped", name=name)
        self._supervisord.options.mood = SupervisorStates.SHUTDOWN
        # Supervisor has no way to choose its exit code; by then all has been stopped in order.
        atexit.register(os._exit, EXIT_CODE)
        with contextlib.suppress(OSError):  # a full disk may be why
            (self._run_dir / GIVEN_UP).write_text(name)

    def _serving(self) -> set[str]:
        """Return the program of the color that serves; a new color that does not start must not end the stack.

        Where `.colors` can't be read, the fallback link names a color that serves; without that link, return both.
        """
        colors = None
        with contextlib.suppress(SetupError):
            colors = state.read(self._state_dir)
        active = colors.active if colors else color_of(self._run_dir / FALLBACK, state.COLORS)
        return {state.program_of(color) for color in state.COLORS if active in {color, ""}}
