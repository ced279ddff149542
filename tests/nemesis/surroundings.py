"""Faults of what the service depends on: its disk, its Redis, its sockets and files, the reader of its logs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from nemesis.fault import CUT, FOLLOWERS, Do, Fault, Trial
from nemesis.faults import LOGGED_REQUESTS
from nemesis.judging import Excuse
from nemesis.subject import DISK_MB, Subject

SHARED_MB = 3
"""What Redis may take: so little that some scores are found there and others are not."""


def full_disk(trial: Trial) -> Iterator[None]:
    """Make the disk as small as what is on it, and take the room of what is removed."""
    place = trial.subject.place
    enough = threading.Event()
    filling = threading.Thread(target=_fill, args=(place / "filling", enough), daemon=True)
    trial.subject.patiently(lambda: _resized(place, f"{shutil.disk_usage(place).used // 1024}k"), "the disk is full")
    filling.start()
    try:
        trial.goes_on()
        yield
    finally:
        enough.set()
        filling.join()
        _resized(place, f"{DISK_MB}m")
        (place / "filling").unlink(missing_ok=True)


def _fill(path: Path, enough: threading.Event) -> None:
    with path.open("wb", buffering=0) as file:
        while not enough.is_set():
            try:
                file.write(bytes(4096))
            except OSError:
                enough.wait(0.002)


def _resized(place: Path, size: str) -> bool:
    command = ["mount", "-o", f"remount,size={size}", str(place)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def redis_killed(trial: Trial) -> Iterator[None]:
    trial.subject.redis.kill()
    try:
        trial.goes_on()
        yield
    finally:
        start_redis(trial.subject)


def redis_stopped(trial: Trial) -> Iterator[None]:
    trial.subject.redis.stop()
    try:
        trial.goes_on()
        yield
    finally:
        trial.subject.redis.go_on()


def redis_full(trial: Trial) -> Iterator[None]:
    trial.subject.redis.command("config", "set", "maxmemory-policy", "noeviction")
    trial.subject.redis.command("config", "set", "maxmemory", "1")
    try:
        trial.goes_on()
        yield
    finally:
        bound_redis(trial.subject)


def start_redis(subject: Subject) -> None:
    """Start Redis with little room."""
    subject.redis.start()
    bound_redis(subject)


def bound_redis(subject: Subject) -> None:
    """Give Redis little room."""
    subject.redis.command("config", "set", "maxmemory-policy", "allkeys-random")
    subject.redis.command("config", "set", "maxmemory", f"{SHARED_MB}mb")


NONSENSE = {
    "integers": lambda count: b"*%d\r\n" % count + b":7\r\n" * count,
    "too few answers": lambda count: b"*%d\r\n" % (count // 2) + b"$-1\r\n" * (count // 2),
    "shifted answers": lambda count: b"+OK\r\n*%d\r\n" % count + b"$-1\r\n" * count,
    "a score that is none": lambda count: b"*%d\r\n" % count + b"$5\r\nhello\r\n" * count,
}
"""Answers to an MGET of so many keys."""


class _Nonsense(socketserver.ThreadingTCPServer):
    """A server on Redis' port whose answers to a look-up make no sense."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int, kind: str) -> None:
        super().__init__(("127.0.0.1", port), _Talk)
        self.answer = NONSENSE[kind]
        self.talks: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        for talk in self.talks:
            with contextlib.suppress(OSError):
                talk.shutdown(socket.SHUT_RDWR)


class _Talk(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.server.talks.append(self.connection)
        with contextlib.suppress(OSError, ValueError):
            while head := self.rfile.readline():
                words = [self._word() for _ in range(int(head[1:]))]
                lookup = words[0].upper() == b"MGET"
                self.wfile.write(self.server.answer(len(words) - 1) if lookup else b"+OK\r\n")

    def _word(self) -> bytes:
        length = int(self.rfile.readline()[1:])
        return self.rfile.read(length + 2)[:-2]


def redis_talks(kind: str) -> Do:
    def do(trial: Trial) -> Iterator[None]:
        trial.subject.redis.kill()
        try:
            with _Nonsense(trial.subject.redis.port, kind):
                trial.goes_on()
                yield
        finally:
            start_redis(trial.subject)

    return do


def removed(name: str) -> Do:
    """Remove a file of the run directory, which has to be made again; `active` in its name is the active color."""

    def do(trial: Trial) -> Iterator[None]:
        subject = trial.subject
        path = subject.state_dir / "run" / name.replace("active", subject.colors()["active"])
        path.unlink()
        subject.patiently(lambda: os.path.lexists(path) or subject.ended, f"{path.name} is made again")
        yield

    return do


def colors_unreadable(trial: Trial) -> Iterator[None]:
    """Garbage in `.colors` and the master dead: `serve` has to end, or to heal."""
    subject, path = trial.subject, trial.subject.state_dir / ".colors"
    good = path.read_bytes()
    path.write_bytes(b"\x00garbage")
    try:
        (master, *_) = subject.masters()
        os.kill(master.pid, signal.SIGKILL)
        subject.patiently(lambda: master not in subject.masters(), "the master is dead")
        subject.patiently(lambda: subject.ended or subject.masters(), "it ends, or another master comes")
        subject.patiently(lambda: subject.ended or subject.answers(), "it ends, or answers")
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.write_bytes(good)


def logs_unread(trial: Trial) -> Iterator[None]:
    trial.subject.reading.clear()
    try:
        trial.goes_on(LOGGED_REQUESTS)
        yield
    finally:
        trial.subject.reading.set()


def _has_redis(subject: Subject) -> bool:
    return subject.redis is not None


def _has_disk(subject: Subject) -> bool:
    return os.path.ismount(subject.place)


_REMOVED = {
    "the webapp's socket": "webapp-active.sock",
    "a share's link": "share-0.sock",
    "the fallback's link": "fallback.sock",
    "the pusher's socket": "pusher.sock",
    "the exporter's socket": "metrics.sock",
    "supervisord's socket": "supervisor.sock",
}

FAULTS = (
    Fault(
        "disk",
        "the state directory's disk is full",
        full_disk,
        Excuse(large=frozenset({500, 507})),
        before="500 for bodies above 1 MB",
        possible=_has_disk,
    ),
    Fault("redis", "Redis is killed", redis_killed, possible=_has_redis),
    Fault("redis", "Redis is stopped", redis_stopped, possible=_has_redis),
    Fault("redis", "Redis is full", redis_full, possible=_has_redis),
    *(
        Fault(
            "redis",
            f"Redis answers nonsense: {kind}",
            redis_talks(kind),
            before="24 to 47 of 60 requests were 500" if kind != "a score that is none" else "",
            possible=_has_redis,
        )
        for kind in NONSENSE
    ),
    *(
        Fault(
            "files",
            f"{what} is removed",
            removed(name),
            FOLLOWERS,
            before="never noticed; 503 until a deploy" if "webapp" in what or "link" in what else "",
        )
        for what, name in _REMOVED.items()
    ),
    Fault(
        "files",
        "`.colors` is garbage, and gunicorn's master is killed",
        colors_unreadable,
        CUT,
        before="limped for ever, requests timed out",
        ends=True,
    ),
    Fault(
        "logs",
        "nobody reads the log on stdout",
        logs_unread,
        before="all hung after 140 requests, `/ready` too",
        possible=lambda subject: subject.logs_to_stdout,
    ),
)
