"""The stack that runs in a state directory: its process, where it listens, and the environment it was started with."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from webapp.config.settings import STOP_GRACE_S, Settings, load_settings
from webapp.config.sources import PREFIX, variable
from webapp.domain.errors import SetupError
from webapp.stack.processes import children
from webapp.stack.tls import certificate

ADDRESS = "address.json"
"""The file in the run directory that says where the stack listens."""

POLL_S = 0.1


def owner(settings: Settings) -> int:
    """Pid of the `reranking serve` that runs with these settings' state directory.

    Raises:
        SetupError: there is none.
    """
    lock = settings.run_dir / "serve.lock"
    if is_held(lock):
        with contextlib.suppress(ValueError):
            return int(lock.read_text())
    raise SetupError(f"no stack runs in {settings.state_dir}; set RERANK_STATE_DIR to the one that is meant")


def is_held(lock: Path) -> bool:
    """Whether a process holds the lock of this file."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def end(settings: Settings, stack: int) -> None:
    """Stop the stack as TERM does, and wait until it has ended.

    Args:
        settings: where it runs.
        stack: pid of its `reranking serve`.

    Raises:
        SetupError: it did not end in time.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(stack, signal.SIGTERM)
    give_up = time.monotonic() + 2 * (settings.request_timeout_s + STOP_GRACE_S)  # nginx' turn, then the webapp's
    while is_held(settings.run_dir / "serve.lock"):
        if time.monotonic() > give_up:
            raise SetupError(f"the stack did not end in time; its pid is {stack}")
        time.sleep(POLL_S)


def note_address(settings: Settings) -> None:
    """Write down where the stack of these settings listens, for commands that are told its state directory alone."""
    files = certificate(settings)
    noted = {
        "host": settings.host,
        "port": settings.port,
        "plain_port": settings.plain_port,
        "tls": settings.tls,
        # Absolute: a command may run in another directory.
        "tls_cert": str(files.cert) if files and not settings.tls else "",
        "tls_key": str(files.key) if files and not settings.tls else "",
    }
    (settings.run_dir / ADDRESS).write_text(json.dumps(noted))


def settings_of_stack(settings: Settings, flags: Collection[str] = ()) -> Settings:
    """The settings of the stack that runs in the state directory of these settings; these themselves where none runs.

    The environment that the stack was started with becomes ours, for the settings file may have been edited since and
    this terminal may have other variables. Where it listens is as it wrote down.

    Args:
        settings: this command's own.
        flags: names of settings that this command was given as flags: they stay.

    Raises:
        SetupError: the stack's environment or settings can't be read.
    """
    pid = supervisord(settings)
    if not pid:
        return settings
    adopt_environment(pid, keep=flags)
    said = {name: value for name, value in address(settings.run_dir).items() if name not in flags}
    return load_settings(flags).model_copy(update=said)


def address(run_dir: Path) -> dict[str, Any]:
    """Where the stack of this run directory listens, by the names of settings; empty where it doesn't yet."""
    try:
        found: dict[str, Any] = json.loads((run_dir / ADDRESS).read_text())
    except FileNotFoundError:
        return {}
    return found


def adopt_environment(supervisord: int, keep: Collection[str] = ()) -> None:
    """Make the RERANK_* variables that the stack was started with ours.

    Args:
        supervisord: pid of its supervisord, whose environment its programs have.
        keep: names of settings that stay as they are here.

    Raises:
        SetupError: they can't be read.
    """
    kept = {variable(name) for name in keep}

    def settable(names: Iterable[str]) -> list[str]:
        return [name for name in names if name.upper().startswith(PREFIX) and name not in kept]

    found = variables_of(supervisord)
    for name in settable(os.environ):
        del os.environ[name]
    os.environ.update({name: found[name] for name in settable(found)})


def variables_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with.

    Raises:
        SetupError: it can't be read.
    """
    try:
        lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError as error:
        raise SetupError(
            f"the stack's environment can't be read ({error.strerror}); run this as the user who runs the stack"
        ) from error
    return {name: value for name, _, value in (os.fsdecode(line).partition("=") for line in lines) if name}


def supervisord(settings: Settings) -> int:
    """Pid of the running stack's supervisord; 0 where no stack runs, or where it only prepares yet."""
    try:
        stack = owner(settings)
        pid = int((settings.run_dir / "supervisord.pid").read_text())
    except (SetupError, OSError, ValueError):
        return 0
    return pid if pid in children(stack) else 0
