"""`reranking restart`, `stop`, `drain` and `reload`: operations on a running stack, by its colors.

Drain's order: `/ready` says 503, and each reply closes its caller's connection; balancers notice, and callers go to
other machines; then the stack stops as it does on TERM, which finishes what was admitted. No request is refused.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import urllib.error
from collections.abc import Callable, Sequence
from functools import partial

from webapp.config.settings import STOP_GRACE_S, Settings
from webapp.domain.errors import SetupError
from webapp.stack.instance import end, owner
from webapp.stack.local_client import ColorApi, ask, url_of
from webapp.stack.preflight import check_keys
from webapp.stack.processes import wait_until
from webapp.stack.releases import state
from webapp.stack.releases.environment import settings_with
from webapp.stack.releases.recovery import deploy_lock, with_artifact
from webapp.stack.repair import SOCKETS, listens
from webapp.stack.supervisor.client import Programs, SupervisorError
from webapp.stack.tls import prepare_certificate

Say = Callable[[str], None]

WEBAPP = "webapp"
"""Name for the program of the color that serves."""

READY_S = 120.0
"""Longest wait until a restarted webapp has made a score, or another program stays up."""

REACHED_S = 30.0
"""Longest wait until a restarted program is reached; `serve` takes a second or two to restore a socket or link."""

POLL_S = 0.05

HANG_UP_EVERY_S = 1.0


def restart(settings: Settings, names: Sequence[str], say: Say) -> None:
    """Restart programs, one after the other; requests that come while the webapp restarts wait, and none is lost.

    Args:
        settings: of the stack.
        names: programs; none: the webapp.
        say: prints a line.

    Raises:
        SetupError: no stack runs, a name is none of its programs or the idle color's, or one did not come up.
    """
    programs, colors, chosen = _chosen(settings, names or (WEBAPP,))
    for name in chosen:
        if state.role_of(name, colors) == "idle":
            serving = state.program_of(colors.active)
            raise SetupError(f"{name} is idle; {serving} serves, and reranking restart restarts that one")
    with deploy_lock(settings.run_dir):
        for name in chosen:
            began = time.monotonic()
            is_up: Callable[[], bool] = partial(_stays_up, name, programs)
            if state.role_of(name, colors) == "active":
                _check_before_restart(colors)
                say(f"{name} restarts; requests that come meanwhile wait")
                is_up = ColorApi(settings, colors.active).is_ready
            meanwhile = {"on_wait": _hang_up(programs)} if name == "nginx" else {}
            programs.restart(name, timeout_s=settings.request_timeout_s + 2 * STOP_GRACE_S, **meanwhile)
            _wait_until_up(name, programs, is_up)
            _wait_until_reached(settings, name)
            say(f"{name} runs again after {time.monotonic() - began:.1f} s")


def stop(settings: Settings, names: Sequence[str], say: Say) -> None:
    """Stop programs without which the stack still serves; without names, stop the stack.

    Args:
        settings: of the stack.
        names: programs.
        say: prints a line.

    Raises:
        SetupError: no stack runs, a name is none of its programs, or the stack needs it.
    """
    stack = owner(settings)
    if not names:
        say("the stack stops; requests that were admitted are finished")
        end(settings, stack)
        say("the stack has stopped")
        return
    programs, colors, chosen = _chosen(settings, names)
    for name in chosen:
        if name == "nginx" or state.role_of(name, colors) == "active":
            raise SetupError(f"{name} serves; to stop the whole stack: reranking stop")
    with deploy_lock(settings.run_dir):
        for name in chosen:
            programs.stop(name, timeout_s=settings.request_timeout_s + 2 * STOP_GRACE_S)
            say(f"{name} has stopped")


def drain(settings: Settings, *, notice_s: float, stop: bool, say: Say) -> None:
    """Take the stack out of service without losing a request, and stop it.

    Args:
        settings: of the stack.
        notice_s: how long `/ready` says 503 before the stack stops; requests are served meanwhile.
        stop: whether to stop it; False: TERM comes from somebody else.
        say: prints a line.

    Raises:
        SetupError: no stack runs, or it did not end in time.
    """
    stack = owner(settings)
    settings.draining_file.touch()
    say("/ready says 503; requests are served, and each reply closes its connection")
    try:
        time.sleep(notice_s)
    except KeyboardInterrupt:
        settings.draining_file.unlink(missing_ok=True)
        raise
    if stop:
        end(settings, stack)
        say("what was admitted is finished, the stack has ended")


def reload(settings: Settings) -> None:
    """Check the key file and the certificate, then have the stack read them again, as HUP does.

    Raises:
        SetupError: no stack runs, or the key file or the certificate is not valid.
    """
    stack = owner(settings)
    check_keys(settings)
    prepare_certificate(settings)
    os.kill(stack, signal.SIGHUP)


def _chosen(settings: Settings, names: Sequence[str]) -> tuple[Programs, state.Colors, list[str]]:
    """Return the stack's programs, its colors, and the full names of the programs that were named."""
    owner(settings)  # or no stack runs
    colors, programs = state.read(settings.state_dir), Programs(settings.run_dir)
    if colors is None:
        raise SetupError(f"{settings.state_dir / state.FILE} is missing; restart the stack: reranking stop, then serve")
    known = sorted(program.name for program in programs.all())
    chosen = [state.program_of(colors.active) if name == WEBAPP else name for name in names]
    for name in chosen:
        if name not in known:
            raise SetupError(f"there is no program {name!r}; there are {', '.join([WEBAPP, *known])}")
    return programs, colors, chosen


def _check_before_restart(colors: state.Colors) -> None:
    """Refuse a webapp that could not start again: supervisor would give it up, and the stack would end."""
    settings_with(colors.serving.settings)
    if with_artifact(colors.serving).artifact != colors.serving.artifact:
        raise SetupError("model, engine or precision have changed since it was started; reranking deploy brings them")


def _hang_up(programs: Programs) -> Callable[[], None]:
    """Return what closes browsers' connections while nginx ends, which would wait for them; browsers connect again."""
    signaled = 0.0

    def hang_up() -> None:
        nonlocal signaled
        if programs.of("nginx").state == "STOPPING" and time.monotonic() - signaled > HANG_UP_EVERY_S:
            signaled = time.monotonic()
            with contextlib.suppress(SupervisorError):  # the pusher does not run
                programs.signal("pusher", "HUP")

    return hang_up


def _stays_up(name: str, programs: Programs) -> bool:
    """Return whether supervisor says RUNNING: the program has lived for its `startsecs`."""
    return programs.of(name).state == "RUNNING"


def _wait_until_up(name: str, programs: Programs, is_up: Callable[[], bool]) -> None:
    """Wait for a program that was started, as long as it lives. Some supervisor starts again for days."""
    give_up = time.monotonic() + READY_S
    while not is_up():
        if not programs.of(name).up:
            raise SetupError(f"{name} did not start; see its log with: reranking logs {name}")
        if time.monotonic() > give_up:
            trying = f"{name} is not up after {READY_S:g} s, and supervisor goes on trying"
            raise SetupError(f"{trying}; see its log with: reranking logs {name}")
        time.sleep(POLL_S)


def _wait_until_reached(settings: Settings, name: str) -> None:
    """Wait until requests reach a program; one may run while its socket or the link to it is gone."""
    if not wait_until(lambda: _is_reached(settings, name), REACHED_S):
        raise SetupError(f"{name} runs, but requests to {url_of(settings)} don't reach it; see reranking doctor")


def _is_reached(settings: Settings, name: str) -> bool:
    if name != "nginx" and not name.startswith("webapp-"):
        return name not in SOCKETS or listens(settings.run_dir / SOCKETS[name])
    try:
        with ask(settings, "/ready", timeout_s=REACHED_S):
            return True
    except urllib.error.HTTPError:
        return name == "nginx"
    except OSError:
        return False
