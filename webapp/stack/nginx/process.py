"""The nginx of this machine: its version, whether it counts connections before HTTP, and how many it can hold."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from webapp.config.settings import Settings

HALF_CLOSE = (1, 21, 4)
"""Since this nginx, its stream module lets http read on after a refusal."""

NEWEST = (1, 25, 1)
"""Since this nginx, HTTP/2 is a directive of its own."""

STREAM_MODULE = "ngx_stream_module.so"

STREAM_REMEDY = "install nginx 1.21.4 or newer and its stream module (Debian: libnginx-mod-stream)"

WITHOUT_STREAM = f"nginx can't bound the connections of one address: {STREAM_REMEDY}"

LEAST_CONNECTIONS = 16_384
"""For each of nginx' workers, where it may have that many files open."""

MOST_CONNECTIONS = 65_536
"""For all of them together, if that is more: each connection takes 0.4 KiB from the start."""

PER_CLIENT = 4
"""nginx' own count of one client at work: its connection, the pipe between stream and http (two ends), the upstream."""

LAST_WORDS_S = 0.2
"""The http block has closed its last connection: what it said before is passed on within that time."""

LISTENS = " 00010000 "
"""How the kernel's list of unix sockets marks one that listens."""

REFUSED_AT_ONCE = 128
"""Of one address and one worker; gunicorn's pool has room for twice as many, so other addresses find some."""


def _files() -> int:
    """Return how many files a process may have open here, at most."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 2**20 if hard == resource.RLIM_INFINITY else hard


@dataclass(frozen=True, slots=True)
class Nginx:
    """What configuration depends on."""

    version: tuple[int, ...] = NEWEST
    stream: str | None = ""
    """Its stream module: the path to load it from, empty where it is compiled in, None where there is none."""
    files: int = field(default_factory=_files)
    """Files that one of its processes may have open."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many connections and requests there may be."""

    files: int
    """Files of a worker of nginx."""
    connections: int
    """Connections of a worker of nginx, those to our own programs counted."""
    connections_per_address: int
    """Connections that the clients of one address may have."""
    connections_of_strangers: int
    """Connections that all clients may have who are neither balancers nor on this machine."""
    requests_per_address: int
    """Requests of one address that may be at work."""


def look_at(nginx: str) -> Nginx:
    """Return what the program at this path says of itself; what can't be read is taken for missing."""
    said = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=False).stderr
    found = re.search(r"nginx/([0-9]+(?:\.[0-9]+)*)", said)
    version = tuple(map(int, found[1].split("."))) if found else (0,)
    return Nginx(version, _stream(said) if version >= HALF_CLOSE else None)


def _stream(said: str) -> str | None:
    built = re.search(r"--with-stream(=dynamic)?(?=\s|$)", said)
    if not built:
        return None
    if not built[1]:
        return ""
    modules, prefix = re.search(r"--modules-path=(\S+)", said), re.search(r"--prefix=(\S+)", said)
    if modules:
        path = Path(modules[1]) / STREAM_MODULE
    elif prefix:
        path = Path(prefix[1]) / "modules" / STREAM_MODULE
    else:
        return None
    return str(path) if path.exists() else None


def bounds(settings: Settings, nginx: Nginx) -> Bounds:
    """Return how many connections and requests nginx takes with these settings.

    One address gets half of what one worker can hold, so that others find room even where the kernel gave one worker
    all connections of that address.
    """
    at_least = max(LEAST_CONNECTIONS, MOST_CONNECTIONS // nginx.workers)
    connections = min(nginx.files * 3 // 4, at_least)  # a quarter is for bodies and replies on disk
    clients = connections * nginx.workers // PER_CLIENT
    admitted = settings.workers * (settings.max_ongoing_requests + REFUSED_AT_ONCE)
    fair = max(connections // (2 * PER_CLIENT), min(admitted, clients // 2))
    return Bounds(
        files=min(nginx.files, connections * 4 // 3),
        connections=connections,
        connections_per_address=settings.connections_per_address or fair,
        connections_of_strangers=clients * 7 // 8,
        # As many as the workers admit, and some that they refuse: below their connection pools, whose overflow hangs.
        requests_per_address=admitted,
    )


class Farewell:
    """Ends an nginx that was told to quit and answers nobody any more.

    Its stream module waits for each client to close its side too, and a client with an idle connection may never do so.
    """

    def __init__(self, run_dir: Path, find: Callable[[], int] = int) -> None:
        """Look at its configuration, which tells whether there is anything to end.

        Args:
            run_dir: of the stack.
            find: pid of nginx, or 0; for when its file is gone, with `run` and all that was in it.
        """
        self._run_dir = run_dir
        self._find = find
        self._counts = False
        with contextlib.suppress(OSError):
            self._counts = "\nstream {" in (run_dir / "nginx.conf").read_text()
        self._idle_since: float | None = None

    def look(self) -> None:
        """End nginx if its http block has had no connection for a moment, in which last words reach the kernel.

        Without the stream module nginx itself ends with its last request, and its connections can't be seen here.
        """
        if not self._counts or not self._is_idle():
            self._idle_since = None
            return
        now = time.monotonic()
        if self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= LAST_WORDS_S:
            with contextlib.suppress(OSError):
                if (pid := self._pid()) and b"nginx" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGTERM)

    def _pid(self) -> int:
        try:
            return int((self._run_dir / "nginx.pid").read_text())
        except (OSError, ValueError):
            return self._find()

    def _is_idle(self) -> bool:
        inside = f" {self._run_dir}/nginx/"
        try:
            lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()
        except OSError:  # not shown here: nginx waits as long as it may
            return False
        return not any(inside in line and LISTENS not in line for line in lines)
