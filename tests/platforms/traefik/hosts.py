"""A Docker host of network namespaces: bridges with subnets, and containers that are real processes on them."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

SECOND = 10**9
"""Docker gives durations in nanoseconds."""

ETC = Path("/etc/netns")
"""`ip netns exec` puts the files of a namespace's folder here into /etc of what it runs."""

DEFAULT_START_INTERVAL_S = 5.0
"""Docker's pause between two health checks of a container that is starting."""


@dataclass(frozen=True, slots=True)
class Image:
    """What an image has: the program and its environment, in which `{id}` stands for the container's id."""

    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    root: Path | None = None
    """The container's root folder, with what is mounted into it; None: the machine's own."""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


class Host:
    """A namespace that is the Docker host; inside `with`. Its callers have addresses of their own."""

    def __init__(self, callers: Sequence[str]) -> None:
        self._callers = callers
        self.prefix = f"platform-{os.getpid()}"
        self.name = f"{self.prefix}-host"
        self._numbers = itertools.count(1)
        self._names = [self.name]
        self._links: dict[str, list[str]] = {}

    def __enter__(self) -> Self:
        ip("netns", "add", self.name)
        ip("-n", self.name, "link", "set", "dev", "lo", "up")
        for address in self._callers:
            ip("-n", self.name, "address", "add", f"{address}/32", "dev", "lo")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._names:
            end_all(name)
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
            shutil.rmtree(ETC / name, ignore_errors=True)

    def inside(self, name: str = "") -> tuple[str, ...]:
        """Return what runs a command in that namespace; the host's own without a name."""
        return ("ip", "netns", "exec", name or self.name)

    def add_bridge(self, gateway: str) -> str:
        """Add a bridge that has this address with its prefix length; return its name."""
        bridge = f"br{next(self._numbers)}"
        # With a hardware address of its own: else it takes that of a port, and containers look for the gateway at one
        # that is gone.
        hardware = f"02:42:00:00:00:{next(self._numbers):02x}"
        ip("-n", self.name, "link", "add", "name", bridge, "address", hardware, "type", "bridge")
        ip("-n", self.name, "address", "add", gateway, "dev", bridge)
        ip("-n", self.name, "link", "set", "dev", bridge, "up")
        return bridge

    def add_namespace(self, addresses: Mapping[str, str], gateway: str) -> str:
        """Add a namespace that has an address on each of these bridges; return its name."""
        number = next(self._numbers)
        name = f"{self.prefix}-{number}"
        ip("netns", "add", name)
        self._names.append(name)
        ip("-n", name, "link", "set", "dev", "lo", "up")
        for index, (bridge, address) in enumerate(addresses.items()):
            outer, inner = f"veth{number}-{index}", f"eth{index}"
            self._links.setdefault(name, []).append(outer)
            ip("link", "add", "name", outer, "netns", self.name, "type", "veth", "peer", inner, "netns", name)
            ip("-n", self.name, "link", "set", "dev", outer, "master", bridge, "up")
            # As Docker's: an address that another container gets soon has the same one, so no neighbour is asked anew.
            hardware = "02:42:" + ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Interface(address).packed)
            ip("-n", name, "link", "set", "dev", inner, "address", hardware)
            ip("-n", name, "address", "add", address, "dev", inner)
            ip("-n", name, "link", "set", "dev", inner, "up")
        ip("-n", name, "route", "add", "default", "via", gateway)
        (ETC / name).mkdir(parents=True)
        (ETC / name / "resolv.conf").write_text(f"nameserver {gateway}\n")
        return name

    def remove_namespace(self, name: str) -> None:
        end_all(name)
        for link in self._links.pop(name):  # now: the kernel removes a namespace, and what is in it, some time later
            ip("-n", self.name, "link", "del", link)
        ip("netns", "del", name)
        shutil.rmtree(ETC / name)
        self._names.remove(name)


def pids_of(namespace: str) -> list[int]:
    """Return the processes of a namespace."""
    found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False).stdout
    return [int(pid) for pid in found.split()]


def end_all(namespace: str) -> None:
    """Kill every process of a namespace, as the end of a container's first process does."""
    while pids := pids_of(namespace):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


class Container:
    """A container: created, started, checked, stopped and started again as Docker does."""

    def __init__(
        self,
        name: str,
        number: str,
        image: Image,
        body: dict[str, Any],
        tell: Callable[[Container, str], None],
        log: Path,
    ) -> None:
        self.name, self.id, self.image, self.body = name, number, image, body
        self.host_config: dict[str, Any] = body.get("HostConfig") or {}
        self.status, self.health, self.code = "created", "", 0
        self.addresses: dict[str, ipaddress.IPv4Interface] = {}
        self.namespace = ""
        self._tell, self.log = tell, log
        self.restarts = 0
        self._wanted = False
        self._process: subprocess.Popen[bytes] | None = None
        self.ended = threading.Event()
        self.ended.set()

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables of its processes: the image's, then the container's."""
        own = dict(line.partition("=")[::2] for line in self.body.get("Env") or ())
        image = {name: value.replace("{id}", self.id[:12]) for name, value in self.image.environment.items()}
        return {**image, **own}

    @property
    def pid(self) -> int:
        """Return its first process, as the host sees it."""
        return self._process.pid if self._process and self.status == "running" else 0

    def prefix(self) -> list[str]:
        """Return what runs a command inside."""
        chroot = [_found("chroot"), str(self.image.root)] if self.image.root else []
        return [_found("ip"), "netns", "exec", self.namespace, *chroot]

    def start(self) -> None:
        """Start it, and its health checks; when it ends by itself, its restart policy holds."""
        for mount in mounts_of(self.host_config):
            self._mount(*mount)
        self._wanted = True
        self.ended.clear()
        self._begin()
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self, patience_s: float) -> None:
        """Send TERM, and KILL to all processes if the first one has not ended in time."""
        self._wanted = False
        if not self.pid:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        if not self.ended.wait(patience_s):
            end_all(self.namespace)
            self.ended.wait()

    def kill(self) -> None:
        """Kill all processes at once; the restart policy brings it back."""
        end_all(self.namespace)

    def run(self, command: Sequence[str], timeout_s: float) -> int:
        """Run a command inside; return its exit code."""
        try:
            return subprocess.run(
                [*self.prefix(), *command],
                env=self.environment,
                timeout=timeout_s,
                check=False,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ).returncode
        except subprocess.TimeoutExpired:
            return 1

    def _mount(self, source: Path, target: str) -> None:
        assert self.image.root, f"{self.name} mounts {source}, which needs a root folder of its own"
        there = self.image.root / target.lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.unlink(missing_ok=True)
        if source.is_socket():
            there.hardlink_to(source)
        else:
            shutil.copy(source, there)

    def _begin(self) -> None:
        command = [*self.image.entrypoint, *(self.body.get("Cmd") or self.image.command)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.prefix(), *command],
                env=self.environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.status = "running"
        check = self.body.get("Healthcheck") or {}
        self.health = "starting" if check.get("Test") else ""
        self._tell(self, "start")
        if self.health:
            threading.Thread(target=self._check, args=(check, self._process), daemon=True).start()

    def _watch(self) -> None:
        while True:
            assert self._process
            self.code = self._process.wait()
            end_all(self.namespace)
            self.status = "exited"
            self._tell(self, "die")
            if not self._wanted or (self.host_config.get("RestartPolicy") or {}).get("Name") in {"", "no", None}:
                break
            time.sleep(0.1)  # as Docker does at first
            self._begin()
            self.restarts += 1
        self.ended.set()

    def _check(self, check: dict[str, Any], process: subprocess.Popen[bytes]) -> None:
        """Run the health check as Docker does, until this process ends."""
        interval_s = check.get("Interval", 30 * SECOND) / SECOND
        start_s = (check.get("StartInterval") or DEFAULT_START_INTERVAL_S * SECOND) / SECOND
        grace = time.monotonic() + check.get("StartPeriod", 0) / SECOND
        failures = 0
        while True:
            starting = self.health == "starting" and time.monotonic() < grace
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(start_s if starting else interval_s)
                return
            good = self.run(check["Test"][1:], check.get("Timeout", 30 * SECOND) / SECOND) == 0
            if process.poll() is not None:
                return
            failures = 0 if good else failures + (not starting)
            now = "healthy" if good else "unhealthy" if failures >= check.get("Retries", 3) else self.health
            if now != self.health:
                self.health = now
                self._tell(self, f"health_status: {now}")


def _found(program: str) -> str:
    """Return where a program of the host is: the container's own PATH does not name it."""
    return shutil.which(program) or program


def mounts_of(host_config: dict[str, Any]) -> list[tuple[Path, str]]:
    """Return the source and the target of each file that is mounted."""
    binds = [bind.split(":")[:2] for bind in host_config.get("Binds") or ()]
    mounts = [(mount["Source"], mount["Target"]) for mount in host_config.get("Mounts") or ()]
    return [(Path(source), target) for source, target in [*binds, *mounts]]
