"""Checks before the stack starts: nginx, paths, directories, keys, ports, cards and the operators' group."""

from __future__ import annotations

import contextlib
import grp
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from contracts.api_keys import KeyFileError, KeyRing
from webapp.config.cards import check_workers, usable
from webapp.config.settings import Settings
from webapp.config.validators import check_path
from webapp.domain.errors import SetupError


def find_nginx() -> str:
    """Return the path of the nginx program.

    Raises:
        SetupError: there is none.
    """
    # Debian keeps it outside an ordinary user's PATH.
    path = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        raise SetupError("nginx is not installed; run as root: apt-get install nginx")
    return path


def check_program(*paths: str | Path) -> None:
    """Check that these paths of programs and files can stand in nginx' and supervisor's configuration.

    Raises:
        SetupError: one has a character that can't be quoted there.
    """
    for path in map(str, paths):
        try:
            check_path(path)
        except ValueError as error:
            raise SetupError(f"{path!r}: {error}; move or install it elsewhere") from None


def make_private(directory: Path) -> None:
    """Make a directory that others can't look into, unless it is there.

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
    """Turn an OSError of the body, which writes to the state directory, into a SetupError.

    Raises:
        SetupError: it can't be written to.
    """
    try:
        yield
    except OSError as error:
        raise SetupError(f"RERANK_STATE_DIR: can't write to {directory} ({error.strerror}); choose another") from error


def check_pusher(settings: Settings) -> None:
    """Check that events go to the pusher that nginx passes followers to.

    Raises:
        SetupError: one of the two is the stack's own, and the other is not.
    """
    if settings.pusher_url and settings.events and not settings.events_endpoint:
        raise SetupError(
            f"RERANK_PUSHER_URL is {settings.pusher_url}, but RERANK_EVENTS_ENDPOINT does not say where that pusher"
            " hears events; set it to tcp://host:port, or set RERANK_EVENTS=false"
        )
    if settings.events_endpoint and not settings.pusher_url:
        raise SetupError(
            f"RERANK_EVENTS_ENDPOINT is {settings.events_endpoint}, but RERANK_PUSHER_URL does not say where that"
            " pusher answers followers; set it to http://host:port, or unset the endpoint: then the stack runs its own"
        )


def check_keys(settings: Settings) -> None:
    """Check the key file, while an operator is there to read what is wrong; damaged later, it opens nothing.

    Raises:
        SetupError: it can't be read, or a line of it is not valid.
    """
    try:
        KeyRing(file=settings.api_keys_file).check()
    except KeyFileError as error:
        raise SetupError(f"RERANK_API_KEYS_FILE: {error}") from error


def check_port(settings: Settings, port: int) -> None:
    """Check that nginx will be able to listen on a port of the settings' host.

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


def check_cards(settings: Settings) -> None:
    """Check that each worker of the torch engine has a card of its own, where torch computes on cards.

    Raises:
        SetupError: there are fewer cards than workers.
    """
    if settings.engine == "torch" and usable():
        check_workers(settings.workers)


def socket_access(settings: Settings) -> tuple[str, str]:
    """Return mode and owner of supervisor's socket, and let the operators' group reach it.

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
    """Return the number of the operators' group.

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
