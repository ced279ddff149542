"""`reranking balance`: nginx in front of the stacks of other machines, in the foreground until INT or TERM.

One program, so no supervisor: nginx keeps its own workers, and systemd or a container keeps us. HUP reads the settings
again and reloads nginx, which finishes its requests.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from webapp.config.paths import ROOT
from webapp.config.settings import SHUTDOWN_GRACE_S, STOP_GRACE_S, Settings
from webapp.config.validators import listed
from webapp.domain.errors import SetupError
from webapp.stack.console import Console
from webapp.stack.instance import lock_run_dir
from webapp.stack.local_client import host_of, url_of
from webapp.stack.nginx.config import RETRY_S, WITHOUT_STREAM, balancer_conf, inspect_nginx
from webapp.stack.preflight import check_port, check_program, find_nginx, make_private, writing_to
from webapp.stack.processes import NginxShutdown, Signals
from webapp.stack.tls import publish_certificate, served_certificate, webroot_problem

START_TIMEOUT_S = 30.0

POLL_S = 0.1

KERNEL = Path("/proc/sys/net/ipv4")

_WITH_PARENT = ("setpriv", "--pdeathsig", "QUIT")
"""Prefix of nginx' command: if we are killed, nginx finishes its requests and ends."""


def balance(settings: Settings, read_again: Callable[[], Settings]) -> None:
    """Run until INT or TERM; requests at work are finished then.

    Args:
        settings: which stacks, and where to listen.
        read_again: returns the settings as they are at HUP.

    Raises:
        SetupError: it can't start, or nginx ended by itself.
    """
    _check_stacks(settings)
    nginx, console = find_nginx(), Console(settings)
    console.never_wait()
    check_program(ROOT, nginx)
    for directory in (settings.run_dir, settings.run_dir / "nginx"):
        make_private(directory)
    with writing_to(settings.state_dir):
        lock_file = lock_run_dir(settings, console.say)
    check_port(settings, settings.port)
    if problem := webroot_problem(settings):
        console.say(problem)
    _render(settings, nginx)
    signals = Signals()
    process = console.start_nginx(
        [*_WITH_PARENT, str(ROOT / "nginx" / "start"), nginx, str(settings.run_dir)],
        env={"TZ": "UTC"},  # one clock in all logs
        start_new_session=True,  # Ctrl-C comes to us alone; and see nginx/start
    )
    try:
        if _wait_until_listening(settings, process, signals):
            if inspect_nginx(nginx).stream is None:
                console.say(WITHOUT_STREAM)
            console.say(f"Ready: {url_of(settings)} divides requests over {', '.join(listed(settings.stacks))}")
            _warn_of_slow_detection(KERNEL, console)
        shutdown = NginxShutdown(settings.run_dir)
        while process.poll() is None:
            if signals.stops:
                shutdown.step()
                process.send_signal(signal.SIGQUIT)  # again and again: one that comes while nginx starts has no effect
            elif signals.reload:
                signals.reload = False
                _reload(read_again, settings, nginx, process, console)
            time.sleep(POLL_S)
    finally:
        _end(process, settings)
        lock_file.close()
    if not signals.stops:
        raise SetupError(f"nginx ended by itself with {process.returncode}; it said why")


def _check_stacks(settings: Settings) -> None:
    if not settings.stacks:
        raise SetupError("RERANK_STACKS names no stack to divide requests over")


def detection_s(kernel: Path) -> float:
    """Return the seconds after which the kernel gives up an idle connection to a machine that vanished.

    Args:
        kernel: the folder with tcp_keepalive_time, tcp_keepalive_intvl (seconds) and tcp_keepalive_probes.
    """
    first, between, probes = (
        int((kernel / f"tcp_keepalive_{name}").read_text()) for name in ("time", "intvl", "probes")
    )
    return first + between * probes


def _warn_of_slow_detection(kernel: Path, console: Console) -> None:
    with contextlib.suppress(OSError, ValueError):  # a sandbox may hide them, and nothing depends on it
        if (after_s := detection_s(kernel)) > RETRY_S:
            console.say(
                f"A machine that vanishes is noticed by its requests after {after_s:,.0f} s, which the kernel's"
                " tcp_keepalive_* set: see docs/scaling.md"
            )


def _render(settings: Settings, nginx: str) -> bool:
    """Write nginx' configuration, if `nginx -t` accepts it; return whether nginx must read it.

    Raises:
        SetupError: it doesn't.
    """
    publish_certificate(settings)
    conf, candidate = settings.run_dir / "nginx.conf", settings.run_dir / "nginx.conf.new"
    with writing_to(settings.state_dir):
        candidate.write_text(f"{balancer_conf(settings, inspect_nginx(nginx))}# {_looked_up(settings)}\n")
        if conf.exists() and conf.read_text() == candidate.read_text():
            return False
    # Names are looked up now: one that is unknown would end it.
    check = subprocess.run(
        [nginx, "-t", "-q", "-e", "stderr", "-c", str(candidate)], capture_output=True, text=True, check=False
    )
    if check.returncode:
        raise SetupError(f"nginx does not take these settings: {check.stderr.strip()}")
    candidate.replace(conf)
    return True


def _looked_up(settings: Settings) -> str:
    """Return what nginx looks up when it reads its configuration: the stacks' addresses, and whom to trust."""
    found = set()
    for address in map(urlsplit, listed(settings.stacks)):
        with contextlib.suppress(OSError):  # `nginx -t` will say so
            found |= {str(each[4][0]) for each in socket.getaddrinfo(address.hostname, address.port)}
    trusted = Path(settings.stacks_ca).expanduser()
    digest = hashlib.sha256(trusted.read_bytes()).hexdigest() if settings.stacks_ca and trusted.exists() else ""
    return " ".join((*sorted(found), digest))


def _reload(
    read_again: Callable[[], Settings],
    settings: Settings,
    nginx: str,
    process: subprocess.Popen[bytes],
    console: Console,
) -> None:
    try:
        changed = read_again().model_copy(update={"state_dir": settings.state_dir})
        _check_stacks(changed)
        must_read = _render(changed, nginx)
    except (SetupError, OSError) as error:  # a full disk, where a certificate of ours was to be made anew
        console.say(f"The settings stay as they were: {error}")
        return
    if not must_read:  # it would cut kept connections
        console.say("Nothing has changed, unless it is the certificate, which is shown from now on")
        return
    process.send_signal(signal.SIGHUP)
    console.say(f"Balancing over {', '.join(listed(changed.stacks))}")


def _wait_until_listening(settings: Settings, process: subprocess.Popen[bytes], signals: Signals) -> bool:
    give_up = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and not signals.stops and time.monotonic() < give_up:
        with contextlib.suppress(OSError), socket.create_connection((host_of(settings), settings.port), 1):
            return True
        time.sleep(POLL_S)
    return False


def _end(process: subprocess.Popen[bytes], settings: Settings) -> None:
    """End nginx with all its processes: workers of a killed master would keep the port."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGQUIT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(settings.request_timeout_s + SHUTDOWN_GRACE_S + STOP_GRACE_S)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for folder in (settings.run_dir / "nginx", served_certificate(settings).parent):
        shutil.rmtree(folder, ignore_errors=True)
