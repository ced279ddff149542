"""The stack that runs in a state directory: its lock, process, address, and the environment it was started with."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any

from webapp.config.lockfile import is_locked, lock
from webapp.config.settings import STOP_GRACE_S, Settings, load_settings
from webapp.config.sources import PREFIX, variable
from webapp.domain.errors import SetupError
from webapp.stack.processes import children, command_line, wait_until
from webapp.stack.tls import certificate

ADDRESS = "address.json"
"""The file in the run directory that says where the stack listens."""

LOCK = "serve.lock"
"""The file in the run directory that `reranking serve` locks; it holds our pid."""

POLL_S = 0.1


def lock_run_dir(settings: Settings, say: Callable[[str], None]) -> IO[str]:
    """Take the lock on the run directory and return its file; the lock is held while the file is open.

    Waits for what is left of a service that was killed there. Writes our pid into the file.

    Raises:
        SetupError: another service has it.
    """
    file = (settings.run_dir / LOCK).open("a+")
    give_up, waits = time.monotonic() + _longest_stop_s(settings), False
    while not lock(file):
        if _owner_lives(file) or time.monotonic() > give_up:
            file.close()
            raise SetupError(f"another service runs in {settings.state_dir}; stop it, or set RERANK_STATE_DIR")
        if not waits:
            say("A service was killed here; what is left of it finishes its requests")
        waits = True
        time.sleep(POLL_S)
    file.truncate(0)
    file.write(str(os.getpid()))  # for `owner`
    file.flush()
    return file


def is_removed(lock_file: IO[str]) -> bool:
    """Return whether the lock's file was removed, be it with its directory."""
    return os.fstat(lock_file.fileno()).st_nlink == 0


def _owner_lives(lock_file: IO[str]) -> bool:
    lock_file.seek(0)
    pid = lock_file.read().strip()
    return not pid.isdecimal() or bool(command_line(int(pid)))  # it has just begun, or it runs


def _longest_stop_s(settings: Settings) -> float:
    return 2 * (settings.request_timeout_s + STOP_GRACE_S)  # nginx' turn, then the webapp's


def owner(settings: Settings) -> int:
    """Return the pid of the `reranking serve` that runs in these settings' state directory.

    Raises:
        SetupError: there is none.
    """
    path = settings.run_dir / LOCK
    if is_locked(path):
        with contextlib.suppress(ValueError):
            return int(path.read_text())
    raise SetupError(f"no stack runs in {settings.state_dir}; set RERANK_STATE_DIR to the one that is meant")


def end(settings: Settings, stack: int) -> None:
    """Stop the stack as TERM does, and wait until it has ended.

    Args:
        settings: of the stack.
        stack: pid of its `reranking serve`.

    Raises:
        SetupError: it did not end in time.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(stack, signal.SIGTERM)
    if not wait_until(lambda: not is_locked(settings.run_dir / LOCK), _longest_stop_s(settings)):
        raise SetupError(f"the stack did not end in time; its pid is {stack}")


def note_address(settings: Settings) -> None:
    """Write where the stack of these settings listens, for commands that know only its state directory."""
    files = None if settings.tls else certificate(settings)  # absolute: a command may run in another directory
    given = {"tls_cert": str(files.cert), "tls_key": str(files.key)} if files else {}
    listens = settings.model_dump(include={"host", "port", "plain_port", "tls", "tls_cert", "tls_key"}) | given
    (settings.run_dir / ADDRESS).write_text(json.dumps(listens))


def settings_of_stack(settings: Settings, flags: Collection[str] = ()) -> Settings:
    """Return the settings of the stack that runs in these settings' state directory; these if none runs.

    The environment that the stack was started with becomes ours: the settings file may have been edited since, and this
    terminal may have other variables. Its address is the one that it wrote when it started.

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
    listens = {name: value for name, value in address(settings.run_dir).items() if name not in flags}
    return load_settings(flags).model_copy(update=listens)


def address(run_dir: Path) -> dict[str, Any]:
    """Return where the stack of this run directory listens, by the settings' names; empty if it does not yet."""
    path = run_dir / ADDRESS
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def adopt_environment(supervisord: int, keep: Collection[str] = ()) -> None:
    """Replace our RERANK_* variables by those that the stack was started with.

    Args:
        supervisord: pid of its supervisord, whose environment its programs have.
        keep: names of settings that stay as they are here.

    Raises:
        SetupError: they can't be read.
    """
    found, kept = variables_of(supervisord), {variable(name) for name in keep}
    for name in {*os.environ, *found} - kept:
        if not name.upper().startswith(PREFIX):
            continue
        if name in found:
            os.environ[name] = found[name]
        else:
            del os.environ[name]


def variables_of(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with.

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
    """Return the pid of the running stack's supervisord; 0 if no stack runs, or if it still prepares its model."""
    try:
        stack = owner(settings)
        pid = int((settings.run_dir / "supervisord.pid").read_text())
    except (SetupError, OSError, ValueError):
        return 0
    return pid if pid in children(stack) else 0
