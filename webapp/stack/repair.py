"""What `serve` looks after each second: the sockets, links and files in the run directory, and the file `.colors`.

Somebody may remove or damage them while all programs run. A socket without a name still listens, and a file that was
removed is still open: each has a second name, a hard link in `run/spare`, and gets the first one back from it. No
program is restarted for that, and no request at work is lost.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.stack.instance import ADDRESS
from webapp.stack.nginx.traffic_split import LINKS, color_of, link_to
from webapp.stack.releases import state
from webapp.stack.releases.canary import LOG
from webapp.stack.releases.state import Colors, program_of
from webapp.stack.supervisor.client import Program

SPARE = "spare"
"""Directory of second names; they don't end in `.sock`, so that `rm *.sock` in any directory leaves them."""

BAD = f"{state.FILE}.bad"
"""What `.colors` was when it could not be read, for whoever wrote that."""

_WITHIN = "+"
"""In place of the slash of a path below the run directory."""

SETTLED_S = 10
"""A program that is younger may not listen yet."""

SOCKETS = {
    **{program_of(color): f"webapp-{color}.sock" for color in state.COLORS},
    "pusher": "pusher.sock",
    "metrics": "metrics.sock",
}
"""Program -> the socket at which nginx reaches it."""

_DIRECTORIES = (SPARE, "nginx", "nginx/body", "nginx/proxy")
"""nginx keeps in its own what is large, and sockets."""


def listens(path: Path) -> bool:
    """Whether somebody listens at a unix socket, be it that they have no time now."""
    with socket.socket(socket.AF_UNIX) as visitor:
        visitor.setblocking(False)
        try:
            visitor.connect(str(path))
        except BlockingIOError:  # its queue is full
            return True
        except OSError:
            return False
        return True


def missing(run_dir: Path, programs: Iterable[Program]) -> list[str]:
    """Names of the sockets and links that nginx lacks to reach the programs that run.

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
    """Remembers what was there, and makes it again."""

    def __init__(self, settings: Settings, colors: Colors, say: Callable[[str], None]) -> None:
        """Begin, when all is there.

        Args:
            settings: of the stack.
            colors: what `.colors` says.
            say: told a line when something was made again, or can't be.
        """
        self._run_dir = settings.run_dir
        self._state_dir = settings.state_dir
        self._files = ("nginx.conf", ADDRESS, settings.own_key.name, "supervisord.pid", LOG)
        self._say = say
        self._colors = colors
        self._colors_seen: tuple[int, ...] = ()
        self._links: dict[str, str] = {}
        """Link -> the color that it named last."""
        self._told: set[str] = set()
        """What could not be made again."""

    def look(self) -> None:
        """Look at everything once, and make again what is missing."""
        run = self._run_dir
        with contextlib.suppress(OSError):
            for name in _DIRECTORIES:
                (run / name).mkdir(mode=0o700, exist_ok=True)
        spares = {path.name for path in (run / SPARE).glob("*")} - {*self._files}
        sockets = {str(path.relative_to(run)) for path in (*run.glob("*.sock"), *run.glob("nginx/*.sock"))}
        sockets |= {f"{name.replace(_WITHIN, '/')}.sock" for name in spares}
        keeping: dict[str, Callable[[], bool]] = {
            **{name: partial(self._keep, name, _second(name), listens) for name in sockets},
            **{name: partial(self._keep, name, name, Path.is_file) for name in self._files},
            **{name: partial(self._keep_link, name) for name in LINKS},
            state.FILE: self._keep_colors,
        }
        made = sorted(name for name, keep in keeping.items() if self._attempt(name, keep))
        if made:
            self._say(f"Removed or damaged, and made again: {', '.join(made)}")

    def _attempt(self, name: str, keep: Callable[[], bool]) -> bool:
        """Whether it was made again."""
        try:
            made = keep()
        except OSError as error:
            if name not in self._told:  # once, not every second
                self._told.add(name)
                self._say(f"{name} was removed or damaged, and can't be made again ({error.strerror})")
            return False
        self._told.discard(name)
        return made

    def _keep(self, name: str, second: str, works: Callable[[Path], bool]) -> bool:
        path, spare = self._run_dir / name, self._run_dir / SPARE / second
        if _identity(path) == _identity(spare):
            return False
        if works(path):  # its program made it anew, or it is seen for the first time
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
    """Tells one file from another, and from itself before a change; empty: there is none."""
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
