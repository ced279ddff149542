"""Self-repair by `serve`: files of the run directory that were removed, and programs that run and do not answer.

Each second: the sockets, links and files in the run directory, and the file `.colors`. Somebody may remove or damage
them while all programs run. A socket without a name still listens, and a file that was removed is still open: each has
a second name, a hard link in `run/spare`, and gets the first one back from it. No program is restarted for that, and no
request at work is lost.

On a thread: the pusher and the metrics exporter. Supervisor starts again a program that has ended; one that is stopped
by a signal, or stuck, has not: it is killed here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.stack.instance import ADDRESS
from webapp.stack.local_client import ask_socket
from webapp.stack.nginx.traffic_split import LINKS, color_of, link_to
from webapp.stack.releases import state
from webapp.stack.releases.canary import LOG
from webapp.stack.supervisor.client import Program, Programs
from webapp.stack.tls import is_published, publish_certificate

SPARE = "spare"
"""Directory of second names; they don't end in `.sock`, so that `rm *.sock` in any directory leaves them."""

BAD = f"{state.FILE}.bad"
"""The copy of a `.colors` that could not be read, so that its author can look at it."""

_CERTIFICATE = "tls"
"""The folder of what nginx shows."""

_WITHIN = "+"
"""Stands for the slash in the second name of a file below a folder."""

SETTLED_S = 10
"""A program that is younger may not listen yet."""

SOCKETS = {
    **{state.program_of(color): f"webapp-{color}.sock" for color in state.COLORS},
    "pusher": "pusher.sock",
    "metrics": "metrics.sock",
}
"""Program -> the socket at which nginx reaches it."""

_DIRECTORIES = (SPARE, "nginx", "nginx/body", "nginx/proxy")
"""The last three are nginx': sockets, large bodies and replies."""

CHECK_S = 10.0
"""Time between two checks of whether programs answer."""

ANSWER_S = 5.0
"""Time in which a program has to answer."""

MISSES = 4
"""A program that did not answer so many times in a row is killed."""


def listens(path: Path) -> bool:
    """Return whether a process listens at a unix socket, be it too busy to accept."""
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        try:
            client.connect(str(path))
        except BlockingIOError:  # its queue is full
            return True
        except OSError:
            return False
        return True


def missing(run_dir: Path, programs: Iterable[Program]) -> list[str]:
    """Return names of the sockets and links that nginx needs to reach running programs, and that are gone.

    Args:
        run_dir: where they lie.
        programs: all of the stack.
    """
    settled = {each.name for each in programs if each.state == "RUNNING" and each.uptime_s > SETTLED_S}
    return [
        *(name for program, name in SOCKETS.items() if program in settled and not listens(run_dir / name)),
        *(link for link in LINKS if not color_of(run_dir / link, state.COLORS)),
    ]


class Repair:
    """Remembers the files of the run directory and restores them."""

    def __init__(self, settings: Settings, colors: state.Colors, say: Callable[[str], None]) -> None:
        """Begin, when all files are there.

        Args:
            settings: of the stack.
            colors: what `.colors` says.
            say: prints a line when something was restored, or can't be.
        """
        self._settings = settings
        self._run_dir = settings.run_dir
        self._state_dir = settings.state_dir
        self._files = ("nginx.conf", ADDRESS, settings.own_key.name, "supervisord.pid", LOG)
        self._say = say
        self._colors = colors
        self._colors_seen: tuple[int, ...] = ()
        self._links: dict[str, str] = {}
        """Link -> the color that it named last."""
        self._failed: set[str] = set()
        """Names that could not be restored."""

    def step(self) -> None:
        """Check everything once, and restore what is missing."""
        run = self._run_dir
        with contextlib.suppress(OSError):
            for name in _DIRECTORIES:
                (run / name).mkdir(mode=0o700, exist_ok=True)
        spares = {path.name for path in (run / SPARE).glob("*")}.difference(self._files)
        sockets = {str(path.relative_to(run)) for path in (*run.glob("*.sock"), *run.glob("nginx/*.sock"))}
        sockets |= {f"{name.replace(_WITHIN, '/')}.sock" for name in spares}
        keeping: dict[str, Callable[[], bool]] = {
            **{name: partial(self._keep, name, _second(name), listens) for name in sockets},
            **{name: partial(self._keep, name, name, Path.is_file) for name in self._files},
            **{name: partial(self._keep_link, name) for name in LINKS},
            state.FILE: self._keep_colors,
            _CERTIFICATE: self._keep_certificate,
        }
        made = sorted(name for name, keep in keeping.items() if self._attempt(name, keep))
        if made:
            self._say(f"Removed or damaged, and made again: {', '.join(made)}")

    def _keep_certificate(self) -> bool:
        """Return whether the pair that nginx shows was gone, and is there again."""
        if is_published(self._settings):
            return False
        try:
            publish_certificate(self._settings)
        except SetupError as error:
            raise OSError(errno.EINVAL, str(error)) from error
        return True

    def _attempt(self, name: str, keep: Callable[[], bool]) -> bool:
        """Return whether `keep` restored something; say once if it can't."""
        try:
            made = keep()
        except OSError as error:
            if name not in self._failed:  # once, not every second
                self._failed.add(name)
                self._say(f"{name} was removed or damaged, and can't be made again ({error.strerror})")
            return False
        self._failed.discard(name)
        return made

    def _keep(self, name: str, second: str, works: Callable[[Path], bool]) -> bool:
        path, spare = self._run_dir / name, self._run_dir / SPARE / second
        if _identity(path) == _identity(spare):
            return False
        if works(path):  # new: its program made it, or this is the first check
            with contextlib.suppress(OSError):  # nothing is wrong where there are no hard links
                spare.unlink(missing_ok=True)
                os.link(path, spare, follow_symlinks=False)
            return False
        if works(spare):
            path.unlink(missing_ok=True)
            os.link(spare, path, follow_symlinks=False)
            return True
        return False

    def _keep_link(self, name: str) -> bool:
        path = self._run_dir / name
        if color := color_of(path, state.COLORS):
            self._links[name] = color
            return False
        link_to(path, self._links.get(name, self._colors.active))
        return True

    def _keep_colors(self) -> bool:
        path = self._state_dir / state.FILE
        seen = _identity(path, follow_symlinks=True)
        if seen and seen == self._colors_seen:
            return False
        colors = None
        with contextlib.suppress(SetupError):
            colors = state.read(self._state_dir)
        if colors:
            self._colors, self._colors_seen = colors, seen
            return False
        _put_aside(path)
        state.write(self._state_dir, self._colors)
        return True


def _second(name: str) -> str:
    return name.removesuffix(".sock").replace("/", _WITHIN)


def _identity(path: Path, *, follow_symlinks: bool = False) -> tuple[int, ...]:
    """Return what differs between two files, and in a file before and after a change; empty: there is no file."""
    try:
        found = path.stat(follow_symlinks=follow_symlinks)
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_ctime_ns)


def _put_aside(path: Path) -> None:
    aside = path.with_name(BAD)
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.replace(aside)


def hung(settings: Settings, timeout_s: float = ANSWER_S) -> list[str]:
    """Return the programs that accept a connection and do not answer; one that has ended is not among them."""
    probes = {"pusher": (settings.pusher_socket, "/figures"), "metrics": (settings.metrics_socket, "/metrics")}
    silent = []
    for name, (address, path) in probes.items():
        try:
            ask_socket(address, path, timeout_s=timeout_s)
        except (TimeoutError, BlockingIOError):  # the latter: so many wait already that no more are taken
            silent.append(name)
        except OSError:
            pass
    return silent


def count_misses(misses: Counter[str], silent: Iterable[str]) -> tuple[Counter[str], list[str]]:
    """Return how often in a row each program did not answer, and those that have used up their misses. PURE.

    Args:
        misses: the counts until now.
        silent: the programs that did not answer this time.
    """
    counted = Counter({name: misses[name] + 1 for name in silent})
    lost = [name for name, count in counted.items() if count >= MISSES]
    return counted - Counter(dict.fromkeys(lost, MISSES)), lost  # the next process has its time, too


def replace_hung(settings: Settings, say: Callable[[str], None]) -> None:
    """Start a thread that kills programs which hang, so that supervisor starts them again."""
    programs = Programs(settings.run_dir)

    def run() -> None:
        misses: Counter[str] = Counter()
        while True:
            time.sleep(CHECK_S)
            misses, lost = count_misses(misses, hung(settings))
            for name in lost:
                with contextlib.suppress(SetupError, OSError):
                    if pid := programs.of(name).pid:
                        say(f"{name} does not answer: it is ended, and supervisor starts it again")
                        os.kill(pid, signal.SIGKILL)  # one that is stopped hears nothing else

    threading.Thread(target=run, daemon=True, name="hangs").start()
