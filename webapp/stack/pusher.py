"""`reranking pusher`: the pusher alone, for the stacks of several machines, in the foreground until INT or TERM.

This process becomes the pusher, as systemd or a container keeps it. It holds the lock of its run directory, so that
`reranking reload` and `stop` find it there.
"""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path
from urllib.parse import urlsplit

from webapp.config.paths import program
from webapp.config.settings import Settings
from webapp.config.sources import FILE_VARIABLE, variable
from webapp.config.validators import check_events, check_pusher_url
from webapp.domain.errors import SetupError
from webapp.stack.instance import lock_run_dir
from webapp.stack.preflight import check_keys, make_private, writing_to

FILES = 8192
"""Descriptors of a pusher, as supervisord gives them to a stack's own."""


def push(settings: Settings, file: Path | None, listen: str, events_listen: str) -> None:
    """Become the pusher; this does not return.

    Args:
        settings: keys, state directory and logs.
        file: the settings file, for the pusher to read, too.
        listen: host:port for the stacks' nginx.
        events_listen: tcp://host:port for workers, or ipc://path for those of this machine.

    Raises:
        SetupError: it can't start.
    """
    try:
        check_pusher_url(f"http://{listen}")
    except ValueError:
        raise SetupError(f"--listen: {listen} is not host:port") from None
    try:
        check_events(events_listen, settings.events_key.get_secret_value())
    except ValueError as error:
        raise SetupError(f"--events-listen: {error}") from None
    _check_free("--listen", f"http://{listen}")
    if events_listen.startswith("tcp://"):
        _check_free("--events-listen", events_listen)
    check_keys(settings)
    _allow_files()
    make_private(settings.run_dir)
    with writing_to(settings.state_dir):
        lock_file = lock_run_dir(settings, print)
    os.set_inheritable(lock_file.fileno(), True)
    os.environ |= {
        variable("state_dir"): str(settings.state_dir),
        variable("api_keys_file"): settings.api_keys_file,  # absolute
        FILE_VARIABLE: str(file or ""),
    }
    command = program("pusher", listen, events_listen)
    os.execv(command[0], command)  # noqa: S606 - no shell # nosec B606


def _allow_files() -> None:
    """Let this process open as many files as a pusher needs.

    Raises:
        SetupError: it may not.
    """
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= most < FILES:
        raise SetupError(f"{most} open files are too few for a pusher; ulimit -Hn {FILES}, or LimitNOFILE={FILES}")
    if 0 <= soft < FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, most))


def _check_free(option: str, url: str) -> None:
    """Check that a program of ours can listen at an address.

    Raises:
        SetupError: it is no address of this machine, or is taken.
    """
    try:
        address = urlsplit(url)
        family = socket.AF_INET6 if ":" in (address.hostname or "") else socket.AF_INET
        socket.create_server((address.hostname or "", address.port or 0), family=family).close()
    except ValueError as error:  # a port that there can't be
        raise SetupError(f"{option}: {error}") from None
    except OSError as error:
        raise SetupError(f"{option}: can't listen there ({error.strerror}); choose another") from None
