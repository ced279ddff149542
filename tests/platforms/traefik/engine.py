"""A stand-in for the Docker Engine: as much of its API as Compose and Traefik call, on a unix socket."""

from __future__ import annotations

import ipaddress
import itertools
import json
import queue
import secrets
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from traefik.api import Api, image_id
from traefik.hosts import SECOND, Container, Host, Image

FORWARDING = Path(__file__).with_name("forwarding.py")

NAMES = Path(__file__).with_name("names.py")

DOCKER_SOCKET = "/var/run/docker.sock"

SERVICE = "com.docker.compose.service"
"""Compose's label, and the name by which other containers know a container."""


def labels_of(container: Container) -> dict[str, str]:
    """Return a container's labels."""
    return container.body.get("Labels") or {}


class Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Networks, images and containers of a host, by Docker's API; inside `with`."""

    daemon_threads = True

    def __init__(self, host: Host, folder: Path, images: Mapping[str, Image]) -> None:
        self.socket_path = folder / "docker.sock"
        super().__init__(str(self.socket_path), Api)
        self.host, self.folder, self.images = host, folder, images
        self.networks: dict[str, dict[str, Any]] = {}
        self.containers: dict[str, Container] = {}
        self.listeners: list[queue.SimpleQueue[dict[str, Any]]] = []
        self.unknown: list[str] = []
        self.commands: dict[str, tuple[Container, list[str]]] = {}
        self.codes: dict[str, int] = {}
        self._subnets = itertools.count(1)
        self._lock = threading.Lock()
        self._names = folder / "names"
        self._programs: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self._names.write_text("")
        self._run_on_host(str(NAMES), str(self._names))
        return self

    def __exit__(self, *_: object) -> None:
        for container in list(self.containers.values()):
            self.remove(container, patience_s=0)
        for process in self._programs:
            process.kill()
            process.wait()
        self.shutdown()
        self.server_close()

    def _run_on_host(self, *arguments: str) -> None:
        """Run a Python program in the host's namespace until the engine ends."""
        command = [*self.host.inside(), sys.executable, *arguments]
        self._programs.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))

    def of_project(self, project: str, service: str = "") -> list[Container]:
        """Return the containers of a Compose project, or of one service of it."""
        wanted = {"com.docker.compose.project": project, **({SERVICE: service} if service else {})}
        return [each for each in self.containers.values() if wanted.items() <= labels_of(each).items()]

    def _write_names(self) -> None:
        """Have the resolver know each service that runs by its name."""
        with self._lock:
            running = [each for each in self.containers.values() if each.status == "running" and each.addresses]
            lines = [f"{labels_of(each)[SERVICE]} {next(iter(each.addresses.values())).ip}\n" for each in running]
            fresh = self._names.with_suffix(".new")
            fresh.write_text("".join(lines))
            fresh.replace(self._names)

    def tell(self, container: Container, action: str) -> None:
        """Tell all listeners of a container's event."""
        self._write_names()
        attributes = {**labels_of(container), "name": container.name, "exitCode": str(container.code)}
        event = {"Type": "container", "Action": action, "Actor": {"ID": container.id, "Attributes": attributes}}
        now = time.time_ns()
        event |= {"scope": "local", "time": now // SECOND, "timeNano": now, "status": action, "id": container.id}
        for listener in list(self.listeners):
            listener.put(event)

    def create_network(self, body: dict[str, Any]) -> dict[str, Any]:
        """Add a network with the subnet that is wanted, or one of its own."""
        configured = ((body.get("IPAM") or {}).get("Config") or [{}])[0].get("Subnet")
        subnet = ipaddress.IPv4Network(configured or f"172.31.{next(self._subnets)}.0/24")
        gateway = ipaddress.IPv4Interface((subnet.network_address + 1, subnet.prefixlen))
        network = {
            "Id": secrets.token_hex(32),
            "Name": body["Name"],
            "Driver": "bridge",
            "Scope": "local",
            "Labels": body.get("Labels") or {},
            "IPAM": {"Driver": "default", "Config": [{"Subnet": str(subnet), "Gateway": str(gateway.ip)}]},
            "bridge": self.host.add_bridge(str(gateway)),
            "taken": {subnet.network_address, gateway.ip, subnet.broadcast_address},
        }
        self.networks[network["Name"]] = network
        return network

    def network(self, name: str) -> dict[str, Any] | None:
        """Return a network by its name or id."""
        return next((each for each in self.networks.values() if name in {each["Name"], each["Id"]}), None)

    def container(self, name: str) -> Container | None:
        """Return a container by its name or id."""
        return next((each for each in self.containers.values() if name in {each.name, each.id}), None)

    def create(self, name: str, body: dict[str, Any]) -> Container:
        """Add a container with an address on each of its networks."""
        number = secrets.token_hex(32)
        # The files have Docker's own socket; here that is this one.
        there = json.dumps(body.get("HostConfig") or {}).replace(f'"{DOCKER_SOCKET}', f'"{self.socket_path}', 1)
        body = {**body, "HostConfig": json.loads(there)}
        container = Container(name, number, self.images[body["Image"]], body, self.tell, self.folder / f"{name}.log")
        for network in (body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}:
            self.connect(container, network)
        self.containers[number] = container
        return container

    def connect(self, container: Container, name: str) -> None:
        """Give a container an address on one more network."""
        network = self.network(name)
        assert network, name
        with self._lock:
            subnet = ipaddress.IPv4Network(network["IPAM"]["Config"][0]["Subnet"])
            address = next(each for each in subnet.hosts() if each not in network["taken"])
            network["taken"].add(address)
        container.addresses[network["Name"]] = ipaddress.IPv4Interface((address, subnet.prefixlen))

    def start(self, container: Container) -> None:
        """Start a container; its namespace comes with it."""
        if not container.namespace:
            bridges = {self.networks[name]["bridge"]: str(each) for name, each in container.addresses.items()}
            first = next(iter(container.addresses))
            gateway = self.networks[first]["IPAM"]["Config"][0]["Gateway"]
            container.namespace = self.host.add_namespace(bridges, gateway)
            self._publish(container, str(container.addresses[first].ip))
        container.start()

    def _publish(self, container: Container, address: str) -> None:
        """Let the host's own 127.0.0.1 reach a container's ports, as docker-proxy does."""
        for inside, outside in (container.host_config.get("PortBindings") or {}).items():
            there = f"{address}:{inside.partition('/')[0]}"
            self._run_on_host(str(FORWARDING), outside[0]["HostPort"], there)

    def remove(self, container: Container, patience_s: float) -> None:
        """Stop a container and forget it."""
        container.stop(patience_s)
        if container.namespace:
            self.host.remove_namespace(container.namespace)
        for name, address in container.addresses.items():
            self.networks[name]["taken"].discard(address.ip)
        self.containers.pop(container.id, None)
        self.tell(container, "destroy")

    def described(self, container: Container) -> dict[str, Any]:
        """Return what `docker inspect` says."""
        state = {"Status": container.status, "Running": container.status == "running", "ExitCode": container.code}
        state |= {"Pid": container.pid, "StartedAt": "2026-01-01T00:00:00Z", "FinishedAt": "0001-01-01T00:00:00Z"}
        if container.health:
            state["Health"] = {"Status": container.health, "FailingStreak": 0, "Log": []}
        networks = {
            name: {
                "IPAddress": str(address.ip) if container.status == "running" else "",
                "IPPrefixLen": address.network.prefixlen,
                "NetworkID": self.networks[name]["Id"],
                "Gateway": self.networks[name]["IPAM"]["Config"][0]["Gateway"],
            }
            for name, address in container.addresses.items()
        }
        return {
            "Id": container.id,
            "Name": f"/{container.name}",
            "Image": image_id(container.body["Image"]),
            "Created": "2026-01-01T00:00:00Z",
            "State": state,
            "Config": {key: container.body[key] for key in container.body.keys() - {"HostConfig", "NetworkingConfig"}},
            "HostConfig": {"NetworkMode": next(iter(container.addresses), "default"), **container.host_config},
            "NetworkSettings": {"Networks": networks, "Ports": {}},
            "Mounts": [],
        }

    def listed(self, container: Container) -> dict[str, Any]:
        """Return a container's entry in the list."""
        described = self.described(container)
        return {
            "Id": container.id,
            "Names": [f"/{container.name}"],
            "Image": container.body["Image"],
            "ImageID": described["Image"],
            "Created": 1_767_225_600,
            "Labels": labels_of(container),
            "State": container.status,
            "Status": f"{container.status} ({container.health})",
            "Ports": [],
            "Mounts": [],
            "NetworkSettings": {"Networks": described["NetworkSettings"]["Networks"]},
            "HostConfig": {"NetworkMode": described["HostConfig"]["NetworkMode"]},
        }
