"""The whole stack in the foreground: prepare the model, render the configuration, run supervisord until told to stop.

Start order: model, supervisord -> webapp, nginx, then the line with the URL. Stop order is supervisor's: the
pusher lets go of browsers, nginx finishes its requests, then the webapp drains, then supervisord ends, then we do.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

from contracts.api_keys import make_own
from webapp.config.settings import STOP_GRACE_S, Settings
from webapp.config.source_tree import ROOT, program
from webapp.config.sources import FILE_VARIABLE
from webapp.domain.errors import SetupError
from webapp.engine.artifact import MANIFEST, artifact_dir, read_manifest
from webapp.stack.console import Console
from webapp.stack.instance import ADDRESS, note_address
from webapp.stack.liveness import replace_hung
from webapp.stack.local_client import ask, url_of
from webapp.stack.nginx.config import nginx_conf
from webapp.stack.nginx.process import WITHOUT_STREAM, Farewell, look_at
from webapp.stack.nginx.traffic_split import FALLBACK, point
from webapp.stack.preflight import (
    check_keys,
    check_port,
    check_program,
    find_nginx,
    is_gone,
    lock,
    make_private,
    who_may_manage,
    writing_to,
)
from webapp.stack.processes import WITH_PARENT, adopt_orphans, children, end_orphans, kill_groups, reap
from webapp.stack.releases.comparison_program import start_if_due
from webapp.stack.releases.environment import environment, settings_with
from webapp.stack.releases.recovery import resume
from webapp.stack.releases.state import COLORS
from webapp.stack.repair import SPARE, Repair
from webapp.stack.supervisor.client import Programs, program_of
from webapp.stack.tls import prepare_certificate
from webapp.telemetry import multiprocess

READY_TIMEOUT_S = 120.0
POLL_S = 0.02

PUSHER_PATIENCE_S = 5.0
"""Nothing needs the pusher; but who reads that we are ready may open the dashboard."""

GIVEN_UP = "given-up"
"""The file in which supervisord leaves the name of a program that it gave up."""

NOTIFY_VARIABLE = "NOTIFY_SOCKET"
"""Where systemd listens. Not for our programs: gunicorn would say that all is ready when only it is."""

_BEGAN = time.monotonic()

_FIRST_REQUEST = json.dumps({"query": "is it ready", "documents": ["it is", "it is not"]}).encode()


def serve(settings: Settings, file: Path | None = None) -> None:
    """Run the stack until INT or TERM.

    Args:
        settings: what was chosen.
        file: where a part of it was chosen, for the programs to read, too.

    Raises:
        SetupError: it can't start, or a program gave up.
    """
    nginx = find_nginx()
    check_program(ROOT, sys.executable, nginx)
    outlet = Console(settings)
    outlet.never_wait()
    for directory in (settings.run_dir, settings.run_dir / "nginx", settings.log_dir):
        make_private(directory)
    with writing_to(settings.state_dir):
        held = lock(settings, outlet.say)
    _check(settings)
    stop = _StopSignals()
    with writing_to(settings.state_dir):
        colors = resume(settings)
    _prepare(colors.serving.settings, outlet, stop)
    if stop.asked:
        held.close()
        return
    with writing_to(settings.state_dir):
        _clean(settings)  # what a killed predecessor left; the lock says that nobody uses it
        _write_run_dir(settings, nginx, outlet)
        point(settings.run_dir, colors.active)
    socket_mode, socket_owner = who_may_manage(settings)
    adopt_orphans()
    figures = multiprocess.folder(settings.state_dir, settings.color)
    multiprocess.clear(figures)
    supervisord = subprocess.Popen(
        [*WITH_PARENT, *outlet.keeper(), "-c", str(ROOT / "supervisor" / "supervisord.conf")],
        env={
            **{name: value for name, value in os.environ.items() if name != NOTIFY_VARIABLE},
            # All programs see the same settings, wherever they run; the flags are in the environment already.
            "RERANK_STATE_DIR": str(settings.state_dir),
            **({"RERANK_API_KEYS_FILE": settings.api_keys_file} if settings.api_keys_file else {}),  # absolute
            FILE_VARIABLE: str(file or ""),
            "RERANK_LOG_FORMAT": "json",  # supervisord brings all lines into the form that was chosen
            "STACK_ROOT": str(ROOT),
            "STACK_PYTHON": sys.executable,
            "STACK_NGINX": nginx,
            "STACK_UID": str(os.getuid()),
            **{f"STACK_START_{color.upper()}": str(color == colors.active) for color in COLORS},
            "STACK_SOCKET_MODE": socket_mode,
            "STACK_SOCKET_OWNER": socket_owner,
            "STACK_STOP_WAIT_S": str(settings.request_timeout_s + STOP_GRACE_S),
            multiprocess.VARIABLE: str(figures),
        },
        stdout=outlet.stdout,
        start_new_session=True,  # Ctrl-C comes to us alone, and we stop things in order
        pass_fds=[held.fileno()],  # should we be killed, the lock is free when it has stopped everything
    )
    stop.forward_to(supervisord)
    ready, upkeep = False, Repair(settings, colors, outlet.say)
    farewell = Farewell(settings.run_dir, partial(_nginx_of, supervisord.pid))  # now: `run` may be removed later
    try:
        read_manifest(artifact_dir(settings_with(colors.serving.settings)))  # says at once what gunicorn's log would
        ready = _wait_until_ready(settings, outlet, supervisord, stop, program_of(colors.active))
        if ready:
            _wait_for_pusher(settings, stop)
            upkeep.look()
            _announce(settings, outlet)
            _begin_serving(settings, settings_with(colors.serving.settings), outlet)
        code = _wait_for_end(settings, supervisord, stop, held, upkeep)
    finally:
        patience_s = settings.request_timeout_s + STOP_GRACE_S
        _end(supervisord, patience_s if ready else STOP_GRACE_S, farewell)
        end_orphans(supervisord.pid, patience_s, lambda: stop.asked > 1, farewell.look)
        shutil.rmtree(figures, ignore_errors=True)
        given_up = _given_up(settings)
        _clean(settings)
        held.close()
    if given_up:
        outcome = "was given up" if ready else "does not start"
        raise SetupError(f"{given_up} {outcome}; see {outlet.where(given_up)}")
    if not stop.asked:
        raise SetupError(f"supervisord ended by itself with {code}; see {outlet.where('supervisord')}")


def _check(settings: Settings) -> None:
    """Look at ports, keys and certificate, while there is somebody to read what is wrong.

    Raises:
        SetupError: one of them is no good.
    """
    for port in filter(None, (settings.port, settings.plain_port)):
        check_port(settings, port)
    check_keys(settings)
    prepare_certificate(settings)


class _StopSignals:
    """INT and TERM ask a process to stop, supervisord in the end; a second one ends its children at once.

    HUP is noted here, and acted on by whoever waits for the end.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.reload_asked = False
        self._process: subprocess.Popen[bytes] | None = None
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGHUP, self._ask_reload)

    def forward_to(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        if self.asked:  # the signal came before there was anything to stop
            process.terminate()

    def _ask_reload(self, _number: int, _frame: Any) -> None:
        self.reload_asked = True

    def _handle(self, _number: int, _frame: Any) -> None:
        self.asked += 1
        if self._process is not None and self._process.poll() is None:
            if self.asked == 1:
                self._process.terminate()
            else:
                kill_groups(children(self._process.pid))


def _clean(settings: Settings) -> None:
    """Take away what tells of programs that have ended."""
    files = (settings.run_dir / GIVEN_UP, settings.run_dir / ADDRESS, settings.own_key)
    for stale in (*settings.run_dir.glob("*.sock*"), *files):
        stale.unlink(missing_ok=True)
    shutil.rmtree(settings.run_dir / SPARE, ignore_errors=True)


def _write_run_dir(settings: Settings, nginx: str, outlet: Console) -> None:
    """Write what our programs and commands read there."""
    seen = look_at(nginx)
    if seen.stream is None:
        outlet.say(WITHOUT_STREAM)
    (settings.run_dir / "nginx.conf").write_text(nginx_conf(settings, seen))
    make_own(settings.own_key)
    note_address(settings)


def _tell_systemd(state: str) -> None:
    """sd_notify, where systemd runs us and wants to know."""
    if address := os.environ.get(NOTIFY_VARIABLE):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(state.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)


def _prepare(release: Mapping[str, str], outlet: Console, stop: _StopSignals) -> None:
    """Prepare in a process of its own, which takes torch and its memory with it when it ends."""
    served = settings_with(release)
    if served.engine == "stub" or (artifact_dir(served) / MANIFEST).exists():
        return
    make_private(served.models_dir)  # not before: in an image it may be read-only
    with environment(release):
        preparing = outlet.start(program("webapp", "prepare"))
    stop.forward_to(preparing)
    outlet.pass_on(preparing)
    if preparing.wait() and not stop.asked:
        raise SystemExit(preparing.returncode)  # it said why


def _wait_until_ready(
    settings: Settings, outlet: Console, supervisord: subprocess.Popen[bytes], stop: _StopSignals, program: str
) -> bool:
    """Wait for a first real score through nginx, of that program; False when asked to stop meanwhile."""
    give_up = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < give_up:
        if stop.asked or supervisord.poll() is not None:
            return False
        if _rerank_works(settings):
            return True
        time.sleep(POLL_S)
    raise SetupError(f"the service was not ready within {READY_TIMEOUT_S:g} s; see {outlet.where(program)}")


def _wait_for_pusher(settings: Settings, stop: _StopSignals) -> None:
    give_up = time.monotonic() + PUSHER_PATIENCE_S
    while not settings.pusher_socket.exists() and time.monotonic() < give_up and not stop.asked:
        time.sleep(POLL_S)


def _rerank_works(settings: Settings) -> bool:
    if not (settings.run_dir / FALLBACK).exists():  # of the active color; to ask before would only fill nginx' log
        return False
    try:
        with ask(settings, "/ready", timeout_s=5):
            pass
        with ask(settings, "/rerank", _FIRST_REQUEST, timeout_s=30):
            return True
    except OSError:
        return False


def _given_up(settings: Settings) -> str:
    """The program that our supervisord gave up, and ended for; see `webapp.stack.supervisor.plugin`."""
    with contextlib.suppress(FileNotFoundError):
        return (settings.run_dir / GIVEN_UP).read_text()
    return ""


def _wait_for_end(
    settings: Settings, supervisord: subprocess.Popen[bytes], stop: _StopSignals, held: IO[str], upkeep: Repair
) -> int:
    while True:
        try:
            return supervisord.wait(timeout=1)
        except subprocess.TimeoutExpired:
            reap(supervisord.pid)
            if stop.reload_asked and not stop.asked:
                from webapp.stack.reload import reload  # noqa: PLC0415 - supervisor's modules would delay each start

                stop.reload_asked = False
                reload(settings)
            if stop.asked:
                # A QUIT that comes while nginx starts is noted but acted on only at the next signal.
                with contextlib.suppress(OSError, ValueError):
                    os.kill(int((settings.run_dir / "nginx.pid").read_text()), signal.SIGQUIT)
            elif is_gone(held):
                # The sockets are gone with it: only connections that are open still work, and not for long.
                raise SetupError(f"{settings.run_dir} was removed; start again, which makes it anew") from None
            else:
                upkeep.look()


def _announce(settings: Settings, outlet: Console) -> None:
    outlet.say(f"Ready: {url_of(settings)} serves {_what_serves(settings)}")
    outlet.say(f"Dashboard: {url_of(settings)}/dashboard/")


def _what_serves(settings: Settings) -> str:
    """The model as the service tells of it; one question that fails is no reason to end what serves."""
    try:
        with ask(settings, "/info", timeout_s=5) as reply:
            info = json.load(reply)
        stands_in = f" in place of {info['substitute_for']}, which can't be fetched" if info["substitute_for"] else ""
        return f"{info['model']} ({info['engine']} {info['precision']}){stands_in}"
    except (OSError, HTTPException, ValueError, KeyError):
        return f"a model; {url_of(settings)}/info says which"


def _begin_serving(settings: Settings, served: Settings, outlet: Console) -> None:
    """Do what waits until requests are answered."""
    outlet.say(f"Started in {time.monotonic() - _BEGAN:.0f} s")
    _tell_systemd("READY=1")
    start_if_due(served, Programs(settings.run_dir))
    replace_hung(settings, outlet.say)


def _end(supervisord: subprocess.Popen[bytes], patience_s: float, farewell: Farewell) -> None:
    """Leave no process behind, whatever happened; what was admitted is finished, unless a signal says to hurry."""
    if supervisord.poll() is None:
        supervisord.terminate()
        give_up = time.monotonic() + patience_s
        while time.monotonic() < give_up:
            with contextlib.suppress(subprocess.TimeoutExpired):
                supervisord.wait(POLL_S)
                return
            farewell.look()
        kill_groups(children(supervisord.pid))
        supervisord.kill()
        supervisord.wait()


def _nginx_of(supervisord: int) -> int:
    """Pid of nginx' first process; 0 where there is none."""
    for pid in children(supervisord):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"nginx: master"):
                return pid
    return 0
