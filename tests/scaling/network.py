"""Hosts on a switch: network namespaces of this machine, so that a cable can be pulled. Needs root."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from pathlib import Path

CLONE_NEWNET = 0x40000000

PREFIX = "10.77.0"

NOTICED = {"tcp_keepalive_time": 3, "tcp_keepalive_intvl": 1, "tcp_keepalive_probes": 3, "tcp_retries2": 5}
"""The kernel's settings that docs/scaling.md recommends for a balancer's machine."""


def why_not() -> str:
    """Why there can be no such network here; empty where there can."""
    if os.geteuid() != 0:
        return "network namespaces are root's"
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    trial = f"rerank-{os.getpid()}-trial"
    if subprocess.run(["ip", "netns", "add", trial], capture_output=True, check=False).returncode:
        return "network namespaces are not allowed here"
    made = subprocess.run(
        ["ip", "-n", trial, "link", "add", "name", "switch", "type", "bridge"], capture_output=True, check=False
    )
    _ip("netns", "del", trial)
    return "" if made.returncode == 0 else "the kernel has no bridges"


class Network:
    """A front, where the switch is, and hosts; inside `with`."""

    def __init__(self, *hosts: str) -> None:
        self._hosts = hosts
        self._here = threading.local()

    def __enter__(self):
        self._add("front")
        _ip("-n", self.namespace("front"), "link", "add", "name", "switch", "type", "bridge")
        self._up("front", "switch", self.address("front"))
        for host in self._hosts:
            self._add(host)
            front, own = self.namespace("front"), self.namespace(host)
            _ip("link", "add", "name", f"to-{host}", "netns", front, "type", "veth", "peer", "eth0", "netns", own)
            _ip("-n", front, "link", "set", "dev", f"to-{host}", "master", "switch", "up")
            self._up(host, "eth0", self.address(host))
        for name, value in NOTICED.items():
            _ip("netns", "exec", self.namespace("front"), "sysctl", "-qw", f"net.ipv4.{name}={value}")
        return self

    def __exit__(self, *_):
        for host in ("front", *self._hosts):
            _ip("netns", "del", self.namespace(host))

    def namespace(self, host: str) -> str:
        return f"rerank-{os.getpid()}-{host}"

    def address(self, host: str) -> str:
        return f"{PREFIX}.{1 + ('front', *self._hosts).index(host)}"

    def inside(self, host: str) -> tuple[str, ...]:
        """Before a command: it runs there."""
        return ("ip", "netns", "exec", self.namespace(host))

    def enter(self, host: str) -> None:
        """The calling thread's sockets are made there from here on."""
        if getattr(self._here, "host", None) == host:
            return
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/run/netns", self.namespace(host)).open() as namespace:
            if libc.setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        self._here.host = host

    def cut(self, host: str) -> None:
        """Pull its cable out of the switch: nobody is told, packets vanish."""
        _ip("-n", self.namespace("front"), "link", "set", "dev", f"to-{host}", "down")

    def mend(self, host: str) -> None:
        _ip("-n", self.namespace("front"), "link", "set", "dev", f"to-{host}", "up")

    def _add(self, host: str) -> None:
        _ip("netns", "add", self.namespace(host))
        self._up(host, "lo")

    def _up(self, host: str, device: str, address: str = "") -> None:
        if address:
            _ip("-n", self.namespace(host), "address", "add", f"{address}/24", "dev", device)
        _ip("-n", self.namespace(host), "link", "set", "dev", device, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
