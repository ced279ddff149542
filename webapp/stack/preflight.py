"""What the stack takes of the machine it is on: nginx, directories, a lock, a port, a group."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from contracts.api_keys import KeyFileError, KeyRing
from webapp.config.settings import STOP_GRACE_S, Settings
from webapp.config.validators import check_path
from webapp.domain.errors import SetupError

POLL_S = 0.05


def find_nginx() -> str:
    """Path of the nginx program.

    Raises:
        SetupError: there is none.
    """
    # Debian keeps it outside an ordinary user's PATH.
    path = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        raise SetupError("nginx is not installed; run as root: apt-get install nginx")
    return path


def check_program(*paths: str | Path) -> None:
    """Check that the programs and files at these paths can be named in nginx' and supervisor's configuration.

    Raises:
        SetupError: one can't.
    """
    for path in map(str, paths):
        try:
            check_path(path)
        except ValueError as error:
            raise SetupError(f"{path!r}: {error}; move or install it elsewhere") from None


def make_private(directory: Path) -> None:
    """A directory that others can't look into.

    Raises:
        SetupError: it can't be made or written to.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"RERANK_STATE_DIR: {directory} can't be made ({error.strerror}); choose another") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise SetupError(f"RERANK_STATE_DIR: {directory} can't be written to; choose another")


@contextlib.contextmanager
def writing_to(directory: Path) -> Iterator[None]:
    """Around what writes to the state directory.

    Raises:
        SetupError: it can't.
    """
    try:
        yield
    except OSError as error:
        raise SetupError(f"RERANK_STATE_DIR: can't write to {directory} ({error.strerror}); choose another") from error


def lock(settings: Settings, say: Callable[[str], None]) -> IO[str]:
    """The lock on the state directory, held while the file is open; holds our pid.

    What is left of a service that was killed there is given time to end.

    Raises:
        SetupError: another service has it.
    """
    file = (settings.run_dir / "serve.lock").open("a+")
    give_up = time.monotonic() + 2 * (settings.request_timeout_s + STOP_GRACE_S)  # nginx' turn, then the webapp's
    waits = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if _owner_lives(file) or time.monotonic() > give_up:
                where = settings.state_dir
                raise SetupError(f"another service runs in {where}; stop it, or set RERANK_STATE_DIR") from error
            if not waits:
                say("A service was killed here; what is left of it finishes its requests")
            waits = True
            time.sleep(POLL_S)
        else:
            break
    file.truncate(0)
    file.write(str(os.getpid()))  # for `reranking drain`
    file.flush()
    return file


def is_gone(held: IO[str]) -> bool:
    """Whether somebody removed the directory that is locked, or what is in it."""
    return os.fstat(held.fileno()).st_nlink == 0


def _owner_lives(held: IO[str]) -> bool:
    held.seek(0)
    try:
        return bool(Path(f"/proc/{int(held.read())}/cmdline").read_bytes())  # a zombie has none
    except ValueError:
        return True  # it has just begun
    except OSError:
        return False


def check_keys(settings: Settings) -> None:
    """Whether the key file is sound, while somebody is there to read it; damaged later, it opens nothing.

    Raises:
        SetupError: it is not.
    """
    try:
        KeyRing(file=settings.api_keys_file).check()
    except KeyFileError as error:
        raise SetupError(f"RERANK_API_KEYS_FILE: {error}") from error


def check_port(settings: Settings, port: int) -> None:
    """Whether nginx will be able to listen.

    Raises:
        SetupError: it won't.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(settings.host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise SetupError(
            f"can't listen on {settings.host}:{port} ({error.strerror}); set RERANK_HOST or RERANK_PORT"
        ) from error


def who_may_manage(settings: Settings) -> tuple[str, str]:
    """Mode and owner of supervisor's socket; the operators' group may also reach it.

    Raises:
        SetupError: there is no such group, or we may not give it anything.
    """
    if not settings.ops_group:
        settings.run_dir.chmod(0o700)
        return "0700", str(os.getuid())
    os.chown(settings.run_dir, -1, group_of(settings))
    settings.run_dir.chmod(0o710)  # to pass through; every other socket in it is for its owner alone
    return "0770", f"{os.getuid()}:{settings.ops_group}"


def group_of(settings: Settings) -> int:
    """Number of the operators' group.

    Raises:
        SetupError: there is no such group, or we are not in it and may not give it anything.
    """
    try:
        number = grp.getgrnam(settings.ops_group).gr_gid
    except KeyError:
        raise SetupError(
            f"RERANK_OPS_GROUP: there is no group {settings.ops_group} here; groupadd {settings.ops_group}"
        ) from None
    if os.geteuid() != 0 and number not in {*os.getgroups(), os.getegid()}:
        raise SetupError(f"RERANK_OPS_GROUP: we are not in the group {settings.ops_group}; usermod -aG it to our user")
    return number
