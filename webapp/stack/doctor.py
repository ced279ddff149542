"""What could keep the service from starting or from being fast here, each with its remedy. Changes nothing."""

from __future__ import annotations

import datetime as dt
import importlib
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from webapp.config.paths import ROOT
from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine.artifact import artifact_dir, read_manifest
from webapp.engine.runtimes.native import library
from webapp.stack.instance import address, owner, supervisord
from webapp.stack.nginx.config import STREAM_REMEDY, inspect_nginx, limits_of
from webapp.stack.preflight import check_keys, check_port, find_nginx, group_of
from webapp.stack.releases import state
from webapp.stack.releases.roles import idle_that_runs
from webapp.stack.repair import missing
from webapp.stack.supervisor.client import Programs
from webapp.stack.tls import certificate, valid_until

Verdict = Literal["good", "poor", "bad"]
"""bad: it won't start, or won't answer. poor: it will, but not as well as it could."""

LEAST_DISK_BYTES = 200 * 1024**2
"""For logs, which are rotated, and nginx' bodies."""

PREPARING_BYTES = 3 * 1024**3
"""A model's files, its exports and what is tried of them."""

WORKER_BYTES = 250 * 1024**2
"""A worker beside its model; see the README's table of memory."""

LEAST_FILES = 8192
"""As `minfds` in supervisord.conf, which refuses to start below."""

LEAST_BACKLOG = 1024

LEAST_DAYS = 14
"""That a certificate should last."""

HERE_ONLY = ("127.0.0.1", "::1", "localhost")
"""Hosts that only this machine reaches."""

FAST = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "avx512_bf16")
"""What makes a processor fast at this."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    about: str
    verdict: Verdict
    seen: str
    remedy: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything; a check that breaks is a finding, too."""
    for about, check in _CHECKS.items():
        try:
            yield check(settings)
        except SetupError as error:
            seen, _, remedy = str(error).rpartition("; ")
            yield Finding(about, "bad", seen or remedy, remedy if seen else "")
        except OSError as error:
            yield Finding(about, "bad", str(error), "mend what the message names, then look again")


def _state(settings: Settings) -> Finding:
    there = next(path for path in (settings.run_dir, *settings.run_dir.parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding("state directory", "bad", f"{there} can't be written to", "chown it, or set RERANK_STATE_DIR")
    if settings.run_dir.exists() and settings.run_dir.stat().st_uid != os.getuid():
        return Finding(
            "state directory", "bad", f"{settings.run_dir} is another user's", "run as that user, or chown -R it"
        )
    if settings.run_dir.exists() and settings.run_dir.stat().st_mode & 0o007:
        return Finding("state directory", "poor", f"{settings.run_dir} is open to others", "chmod o-rwx it")
    return Finding("state directory", "good", str(settings.state_dir))


def _disk(settings: Settings) -> Finding:
    there = next(path for path in (settings.state_dir, *settings.state_dir.parents) if path.exists())
    free = shutil.disk_usage(there).free
    seen = f"{_size(free)} free in {there}"
    if free < LEAST_DISK_BYTES:
        return Finding("disk", "bad", seen, f"make room: {_size(LEAST_DISK_BYTES)} for logs and bodies")
    if free < PREPARING_BYTES and not _artifact_there(settings):
        return Finding("disk", "poor", seen, f"make room: {_size(PREPARING_BYTES)} for preparing a model")
    return Finding("disk", "good", seen)


def _model(settings: Settings) -> Finding:
    if settings.engine == "stub":
        return Finding("model", "poor", "the stub: no model, scores mean nothing", "set RERANK_ENGINE=auto")
    manifest = read_manifest(artifact_dir(settings))  # compares every file's sha256
    if manifest is None:
        return Finding("model", "bad", f"{settings.model} is not prepared", "reranking prepare")
    seen = f"{manifest.model} ({manifest.engine} {manifest.precision}), {len(manifest.files)} files whole"
    if manifest.substitute_for:
        return Finding(
            "model", "poor", f"{seen}, in place of {manifest.substitute_for}", "reach the hub, then: prepare --again"
        )
    return Finding("model", "good", seen)


def _nginx(settings: Settings) -> Finding:
    nginx = inspect_nginx(find_nginx())
    seen = ".".join(map(str, nginx.version))
    if nginx.stream is None:
        return Finding("nginx", "poor", f"{seen}, without its stream module: no bound on connections", STREAM_REMEDY)
    most = limits_of(settings, nginx).connections_per_address
    return Finding("nginx", "good", f"{seen}, {most:,} connections an address")


def _port(settings: Settings) -> Finding:
    ports = [settings.port, *([settings.plain_port] if settings.plain_port else [])]
    seen = f"{settings.host}:{', '.join(map(str, ports))}"
    taken = address(settings.run_dir) if _runs(settings) else {}
    free = [port for port in ports if port not in {taken.get("port"), taken.get("plain_port")}]
    for port in free:
        check_port(settings, port)
    if len(free) == len(ports):
        return Finding("port", "good", f"{seen} is free")
    return Finding("port", "good", f"{seen}, our service runs (pid {owner(settings)})")


def _colors(settings: Settings) -> Finding:
    colors = state.read(settings.state_dir)
    if colors is None or not _runs(settings):
        return Finding("colors", "good", "no stack runs here")
    seen = f"{colors.active} is active, {colors.idle} is idle"
    try:
        programs = Programs(settings.run_dir).all()
    except SetupError:  # the stack prepares its model, or ends
        return Finding("colors", "good", seen)
    if needless := idle_that_runs(settings.run_dir, colors, programs):
        return Finding("colors", "poor", f"{seen}, yet it runs, and takes memory", f"reranking stop {needless}")
    return Finding("colors", "good", seen)


def _sockets(settings: Settings) -> Finding:
    if not supervisord(settings):
        return Finding("sockets", "good", "no stack runs here")
    try:
        gone = missing(settings.run_dir, Programs(settings.run_dir).all())
    except SetupError:
        gone = ["supervisor.sock"]
    if not gone:
        return Finding("sockets", "good", f"programs are reached in {settings.run_dir}")
    remedy = "serve makes them again within seconds; what stays away a restart of its program makes"
    if "supervisor.sock" in gone:
        remedy = "serve makes it again within seconds; if not: stop serve, and start it again"
    return Finding("sockets", "bad", f"gone from {settings.run_dir}: {', '.join(gone)}", remedy)


def _keys(settings: Settings) -> Finding:
    check_keys(settings)
    if settings.api_keys_file or settings.api_keys.get_secret_value():
        return Finding("keys", "good", settings.api_keys_file or "of the settings")
    if settings.host in HERE_ONLY:
        return Finding("keys", "good", f"none: open to all who reach {settings.host}")
    return Finding("keys", "poor", "none: open to everybody", "set RERANK_API_KEYS_FILE; reranking keys add NAME")


def _certificate(settings: Settings) -> Finding:
    files = certificate(settings)
    if files is None:
        verdict: Verdict = "good" if settings.host in HERE_ONLY else "poor"
        return Finding("certificate", verdict, "none: plain http", "" if verdict == "good" else "set RERANK_TLS_CERT")
    if settings.tls and not files.cert.exists():
        return Finding("certificate", "good", "self-signed, made at the start")
    end = valid_until(files)
    days = (end - dt.datetime.now(dt.UTC)).days
    seen = f"{files.cert} is valid until {end:%Y-%m-%d}"
    if days < LEAST_DAYS:
        remedy = "reranking serve makes another at its start" if settings.tls else "renew it, then HUP"
        return Finding("certificate", "poor", seen, remedy)
    return Finding("certificate", "good", seen)


def _processor(settings: Settings) -> Finding:
    flags = set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            flags |= set(line.partition(":")[2].split())
    known = [name for name in FAST if name in flags]
    seen = f"{len(os.sched_getaffinity(0))} cores, {', '.join(known) or 'no AVX2'}"
    if "avx2" in flags and library() is None:
        return Finding(
            "processor",
            "poor",
            f"{seen}, but the native engine isn't built",
            "apt-get install gcc libc6-dev; then: pip install -e .",
        )
    if not known and settings.engine != "stub":
        return Finding("processor", "poor", seen, "scoring is slow without AVX2: choose another machine")
    return Finding("processor", "good", seen)


def _memory(settings: Settings) -> Finding:
    needed = settings.workers * (WORKER_BYTES + settings.cache_mb * 1024**2)
    if settings.engine != "stub" and artifact_dir(settings).is_dir():
        files = sum(path.stat().st_size for path in artifact_dir(settings).iterdir())
        needed += files * (1 + settings.workers)
    free = _available_bytes()
    seen = f"{_size(free)} available, about {_size(needed)} needed"
    if free < needed and not _runs(settings):
        return Finding("memory", "poor", seen, "set RERANK_WORKERS or RERANK_CACHE_MB lower, or add memory")
    return Finding("memory", "good", seen)


def _limits(_settings: Settings) -> Finding:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files != resource.RLIM_INFINITY and files < LEAST_FILES:
        remedy = f"ulimit -Hn {LEAST_FILES}, or LimitNOFILE={LEAST_FILES} in a systemd unit"
        return Finding("limits", "bad", f"{files} open files a process", remedy)
    backlog = int(Path("/proc/sys/net/core/somaxconn").read_text())
    if backlog < LEAST_BACKLOG:
        return Finding("limits", "poor", f"somaxconn is {backlog}", "sysctl net.core.somaxconn=4096")
    return Finding("limits", "good", f"somaxconn {backlog}, open files {'any' if files < 0 else files}")


def _dashboard(_settings: Settings) -> Finding:
    if not (ROOT / "pusher" / "dashboard" / "node_modules").is_dir():
        return Finding("dashboard", "poor", "its packages are missing", "./scripts/serve installs them, with npm")
    return Finding("dashboard", "good", "its packages are there")


def _group(settings: Settings) -> Finding:
    if not settings.ops_group:
        return Finding("ops group", "good", "none: supervisorctl is for our user alone")
    group_of(settings)
    return Finding("ops group", "good", settings.ops_group)


def _redis(settings: Settings) -> Finding:
    url = settings.redis_url.get_secret_value()
    if not url:
        return Finding("redis", "good", "none is configured")
    try:
        redis = importlib.import_module("redis")
        redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1).ping()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        return Finding(
            "redis", "poor", f"{type(error).__name__}: it doesn't answer", "start it, or mend RERANK_REDIS_URL"
        )
    return Finding("redis", "good", "it answers")


_CHECKS: dict[str, Callable[[Settings], Finding]] = {
    "state directory": _state,
    "disk": _disk,
    "model": _model,
    "processor": _processor,
    "memory": _memory,
    "limits": _limits,
    "nginx": _nginx,
    "port": _port,
    "colors": _colors,
    "sockets": _sockets,
    "keys": _keys,
    "certificate": _certificate,
    "ops group": _group,
    "dashboard": _dashboard,
    "redis": _redis,
}


def _artifact_there(settings: Settings) -> bool:
    return settings.engine == "stub" or artifact_dir(settings).is_dir()


def _runs(settings: Settings) -> bool:
    try:
        return owner(settings) > 0
    except SetupError:
        return False


def _available_bytes() -> int:
    """Of this machine, or of our container where that is less."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        return min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return free


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1024**3:.1f} GiB" if size_bytes >= 1024**3 else f"{size_bytes / 1024**2:.0f} MiB"
