"""`reranking doctor`: what keeps the service from starting or from being fast here, with remedies. Changes nothing."""

from __future__ import annotations

import datetime as dt
import importlib
import os
import resource
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from webapp.config.cards import cards, cuda_of_driver, cuda_of_torch, driver, obstacle, torch_build
from webapp.config.paths import ROOT
from webapp.config.resources import free_bytes
from webapp.config.settings import Settings
from webapp.config.validators import is_loopback
from webapp.domain.errors import SetupError
from webapp.engine.artifact import artifact_dir, read_manifest
from webapp.engine.runtimes.native import PORTABLE, instruction_sets
from webapp.stack.instance import address, owner, supervisord
from webapp.stack.local_client import pusher_answers
from webapp.stack.nginx.config import STREAM_REMEDY, inspect_nginx, limits_of
from webapp.stack.preflight import check_cards, check_keys, check_port, check_pusher, find_nginx, group_of
from webapp.stack.releases import state
from webapp.stack.releases.checks import size_of
from webapp.stack.releases.recovery import running_idle_program
from webapp.stack.repair import missing
from webapp.stack.supervisor.client import Programs
from webapp.stack.tls import certificate, valid_until, webroot_problem

Verdict = Literal["good", "poor", "bad"]
"""bad: it won't start, or won't answer. poor: it will, but not as well as it could."""

Result = tuple[Verdict, str, str]
"""Verdict, what was seen, and the remedy."""

LEAST_DISK_BYTES = 200 * 1024**2
"""Space for logs, which are rotated, and bodies that nginx writes."""

PREPARING_BYTES = 3 * 1024**3
"""Space for a model's files, its exports, and the exports that are tried."""

WORKER_BYTES = 250 * 1024**2
"""Memory of a worker without its model; see the README's table of memory."""

LEAST_FILES = 8192
"""`minfds` in supervisord.conf, which refuses to start below."""

LEAST_BACKLOG = 1024

PUSHER_TIMEOUT_S = 2.0

LEAST_DAYS = 14
"""Days that a certificate should last."""

FAST = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "avx512_bf16", "asimddp")
"""Processor features that make scoring fast."""

_KERNELS = {
    frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}): "avx512vnni",
    frozenset({"avx2", "fma", "avx_vnni"}): "avxvnni",
    frozenset({"avx2", "fma"}): "avx2",
    frozenset({"asimddp"}): "neon",
}
"""Processor features -> the native kernels that are written for them, the fastest first, as in native/dispatch.c."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    about: str
    verdict: Verdict
    seen: str
    remedy: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Run all checks; one that fails is a finding, too."""
    for about, check in _CHECKS.items():
        try:
            yield Finding(about, *check(settings))
        except SetupError as error:
            seen, _, remedy = str(error).rpartition("; ")
            yield Finding(about, "bad", seen or remedy, remedy if seen else "")
        except OSError as error:
            yield Finding(about, "bad", str(error), "mend what the message names, then look again")


def _state(settings: Settings) -> Result:
    there = next(path for path in (settings.run_dir, *settings.run_dir.parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return "bad", f"{there} can't be written to", "chown it, or set RERANK_STATE_DIR"
    if settings.run_dir.exists() and settings.run_dir.stat().st_uid != os.getuid():
        return "bad", f"{settings.run_dir} is another user's", "run as that user, or chown -R it"
    if settings.run_dir.exists() and settings.run_dir.stat().st_mode & 0o007:
        return "poor", f"{settings.run_dir} is open to others", "chmod o-rwx it"
    return "good", str(settings.state_dir), ""


def _disk(settings: Settings) -> Result:
    there = next(path for path in (settings.state_dir, *settings.state_dir.parents) if path.exists())
    free = shutil.disk_usage(there).free
    seen = f"{_size(free)} free in {there}"
    if free < LEAST_DISK_BYTES:
        return "bad", seen, f"make room: {_size(LEAST_DISK_BYTES)} for logs and bodies"
    if free < PREPARING_BYTES and settings.engine != "stub" and not artifact_dir(settings).is_dir():
        return "poor", seen, f"make room: {_size(PREPARING_BYTES)} for preparing a model"
    return "good", seen, ""


def _model(settings: Settings) -> Result:
    if settings.engine == "stub":
        return "poor", "the stub: no model, scores mean nothing", "set RERANK_ENGINE=auto"
    manifest = read_manifest(artifact_dir(settings))  # compares every file's sha256
    if manifest is None:
        return "bad", f"{settings.model} is not prepared", "reranking prepare"
    seen = f"{manifest.model} ({manifest.engine} {manifest.precision}), {len(manifest.files)} files whole"
    if manifest.substitute_for:
        return "poor", f"{seen}, in place of {manifest.substitute_for}", "reach the hub, then: prepare --again"
    return "good", seen, ""


def _nginx(settings: Settings) -> Result:
    nginx = inspect_nginx(find_nginx())
    seen = ".".join(map(str, nginx.version))
    if nginx.stream is None:
        return "poor", f"{seen}, without its stream module: no bound on connections", STREAM_REMEDY
    most = limits_of(settings, nginx).connections_per_address
    return "good", f"{seen}, {most:,} connections an address", ""


def _port(settings: Settings) -> Result:
    ports = [settings.port, *([settings.plain_port] if settings.plain_port else [])]
    seen = f"{settings.host}:{', '.join(map(str, ports))}"
    ours = address(settings.run_dir).values() if _runs(settings) else ()
    free = [port for port in ports if port not in ours]
    for port in free:
        check_port(settings, port)
    return "good", f"{seen} is free" if free == ports else f"{seen}, our service runs (pid {owner(settings)})", ""


def _colors(settings: Settings) -> Result:
    colors = state.read(settings.state_dir)
    if colors is None or not _runs(settings):
        return "good", "no stack runs here", ""
    seen = f"{colors.active} is active, {colors.idle} is idle"
    try:
        programs = Programs(settings.run_dir).all()
    except SetupError:  # the stack prepares its model, or ends
        return "good", seen, ""
    if needless := running_idle_program(settings.run_dir, colors, programs):
        return "poor", f"{seen}, yet it runs, and takes memory", f"reranking stop {needless}"
    return "good", seen, ""


def _sockets(settings: Settings) -> Result:
    if not supervisord(settings):
        return "good", "no stack runs here", ""
    try:
        gone = missing(settings.run_dir, Programs(settings.run_dir).all())
    except SetupError:
        gone = ["supervisor.sock"]
    if not gone:
        return "good", f"programs are reached in {settings.run_dir}", ""
    remedy = "serve makes them again within seconds; what stays away a restart of its program makes"
    if "supervisor.sock" in gone:
        remedy = "serve makes it again within seconds; if not: stop serve, and start it again"
    return "bad", f"gone from {settings.run_dir}: {', '.join(gone)}", remedy


def _keys(settings: Settings) -> Result:
    check_keys(settings)
    if settings.api_keys_file or settings.api_keys.get_secret_value():
        return "good", settings.api_keys_file or "of the settings", ""
    if is_loopback(settings.host):
        return "good", f"none: open to all who reach {settings.host}", ""
    return "poor", "none: open to everybody", "set RERANK_API_KEYS_FILE; reranking keys add NAME"


def _certificate(settings: Settings) -> Result:
    files = certificate(settings)
    if files is None:
        if is_loopback(settings.host):
            return "good", "none: plain http", ""
        return "poor", "none: plain http", "set RERANK_TLS_CERT"
    if settings.tls and not files.cert.exists():
        return "good", "self-signed, made at the start", ""
    end = valid_until(files)
    days = (end - dt.datetime.now(dt.UTC)).days
    seen = f"{files.cert} is valid until {end:%Y-%m-%d}"
    if days < LEAST_DAYS:
        remedy = "reranking serve makes another at its start" if settings.tls else "renew it, then HUP"
        return "poor", seen, remedy
    return "good", seen, ""


def _webroot(settings: Settings) -> Result:
    if problem := webroot_problem(settings):
        seen, _, remedy = problem.partition("; ")
        return "poor", seen, remedy
    return "good", settings.acme_webroot or "none: certificates come in another way", ""


def _processor(settings: Settings) -> Result:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    known = [name for name in FAST if name in flags]
    kernels = instruction_sets()
    fast = [name for name in kernels if name != PORTABLE]
    seen = f"{len(os.sched_getaffinity(0))} cores, {', '.join(known) or 'no AVX2'}"
    remedy = "apt-get install gcc libc6-dev; then: pip install -e ."
    if known and not kernels:
        return "poor", f"{seen}, but the native engine isn't built", remedy
    fastest = next((name for needed, name in _KERNELS.items() if needed <= flags), PORTABLE)
    if kernels and fastest not in kernels:
        seen += f", but the compiler at installation did not know {fastest}"
        return "poor", seen, "install a newer gcc, then again; or use our wheel"
    if not known and settings.engine != "stub":
        return "poor", seen, "scoring is slow without AVX2: choose another machine"
    return "good", f"{seen}; native kernels for {', '.join(fast)}" if fast else seen, ""


def _card(settings: Settings) -> Result:
    found = cards()
    if not found:
        return _no_card(settings)
    seen = ", ".join(f"{card.name}, {_size(card.free_bytes)} of {_size(card.memory_bytes)} free" for card in found)
    seen += f"; driver {driver()}, torch {torch_build() or 'none'}"
    if settings.engine not in {"auto", "torch"}:
        return "good", f"{seen}; not used: RERANK_ENGINE is {settings.engine}", ""
    if why := obstacle():
        reason, _, remedy = why.partition("; ")
        return "poor", f"{seen}; not used: {reason}", remedy or "install it: docs/gpu.md"
    theirs, ours = cuda_of_torch(), cuda_of_driver()
    if int(theirs.partition(".")[0] or 0) > int(ours.partition(".")[0] or 0):
        verdict: Verdict = "bad" if settings.engine == "torch" else "poor"
        return verdict, f"{seen}; torch is built for CUDA {theirs}, the driver for {ours}", "update NVIDIA's driver"
    check_cards(settings)
    if not _can_compile():
        remedy = "apt-get install gcc libc6-dev python3-dev"
        return "poor", f"{seen}; nothing can be compiled for it, which makes it slower", remedy
    return "good", seen, ""


def _no_card(settings: Settings) -> Result:
    if settings.engine != "torch":
        return "good", "none: the CPU computes", ""
    remedy = "set RERANK_ENGINE=auto: on a CPU other engines are faster"
    return "poor", f"none: torch computes on the CPU ({obstacle()})", remedy


def _can_compile() -> bool:
    """Return whether torch's compiler finds what it needs: a C compiler, and the headers of this Python."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return bool(compiler) and (Path(sysconfig.get_path("include", "posix_prefix")) / "Python.h").exists()


def _memory(settings: Settings) -> Result:
    needed = settings.workers * (WORKER_BYTES + settings.cache_mb * 1024**2)
    if settings.engine != "stub":
        needed += size_of(artifact_dir(settings)) * (1 + settings.workers)
    free = free_bytes()
    seen = f"{_size(free)} available, about {_size(needed)} needed"
    if free < needed and not _runs(settings):
        return "poor", seen, "set RERANK_WORKERS or RERANK_CACHE_MB lower, or add memory"
    return "good", seen, ""


def _limits(_settings: Settings) -> Result:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files != resource.RLIM_INFINITY and files < LEAST_FILES:
        remedy = f"ulimit -Hn {LEAST_FILES}, or LimitNOFILE={LEAST_FILES} in a systemd unit"
        return "bad", f"{files} open files a process", remedy
    backlog = int(Path("/proc/sys/net/core/somaxconn").read_text())
    if backlog < LEAST_BACKLOG:
        return "poor", f"somaxconn is {backlog}", "as root: echo 4096 > /proc/sys/net/core/somaxconn"
    return "good", f"somaxconn {backlog}, open files {'any' if files < 0 else files}", ""


def _pusher(settings: Settings) -> Result:
    check_pusher(settings)
    if not settings.pusher_url:
        return "good", "the stack's own", ""
    if pusher_answers(settings, PUSHER_TIMEOUT_S):
        return "good", f"{settings.pusher_url} answers", ""
    return "poor", f"{settings.pusher_url} does not answer", "start it: reranking pusher; and look at RERANK_PUSHER_URL"


def _dashboard(_settings: Settings) -> Result:
    if not (ROOT / "pusher" / "dashboard" / "node_modules").is_dir():
        return "poor", "its packages are missing", "./scripts/serve installs them, with npm"
    return "good", "its packages are there", ""


def _group(settings: Settings) -> Result:
    if not settings.ops_group:
        return "good", "none: supervisorctl is for our user alone", ""
    group_of(settings)
    return "good", settings.ops_group, ""


def _redis(settings: Settings) -> Result:
    url = settings.redis_url.get_secret_value()
    if not url:
        return "good", "none is configured", ""
    try:
        redis = importlib.import_module("redis")
        redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1).ping()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        return "poor", f"{type(error).__name__}: it doesn't answer", "start it, or mend RERANK_REDIS_URL"
    return "good", "it answers", ""


_CHECKS: dict[str, Callable[[Settings], Result]] = {
    "state directory": _state,
    "disk": _disk,
    "model": _model,
    "processor": _processor,
    "card": _card,
    "memory": _memory,
    "limits": _limits,
    "nginx": _nginx,
    "port": _port,
    "colors": _colors,
    "sockets": _sockets,
    "keys": _keys,
    "certificate": _certificate,
    "ACME webroot": _webroot,
    "ops group": _group,
    "dashboard": _dashboard,
    "pusher": _pusher,
    "redis": _redis,
}


def _runs(settings: Settings) -> bool:
    try:
        return owner(settings) > 0
    except SetupError:
        return False


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1024**3:.1f} GiB" if size_bytes >= 1024**3 else f"{size_bytes / 1024**2:.0f} MiB"
