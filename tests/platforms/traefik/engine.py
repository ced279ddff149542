"""A stand-in for the Docker Engine: as much of its API as Compose and Traefik call, on a unix socket."""

from __future__ import annotations

import ipaddress
import itertools
import json
import queue
import re
import secrets
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from traefik.hosts import SECOND, Container, Host, Image

API = "1.47"

FORWARDING = Path(__file__).with_name("forwarding.py")

DOCKER_SOCKET = "/var/run/docker.sock"


class Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Networks, images and containers of a host, by Docker's API; inside `with`."""

    daemon_threads = True

    def __init__(self, host: Host, folder: Path, images: Mapping[str, Image]) -> None:
        self.socket_path = folder / "docker.sock"
        super().__init__(str(self.socket_path), _Api)
        self.host, self.folder, self.images = host, folder, images
        self.networks: dict[str, dict[str, Any]] = {}
        self.containers: dict[str, Container] = {}
        self.listeners: list[queue.SimpleQueue[dict[str, Any]]] = []
        self.unknown: list[str] = []
        self._subnets = itertools.count(1)
        self._lock = threading.Lock()
        self._forwarding: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Engine:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for container in list(self.containers.values()):
            self.remove(container, patience_s=0)
        for process in self._forwarding:
            process.kill()
            process.wait()
        self.shutdown()
        self.server_close()

    def of_project(self, project: str) -> list[Container]:
        """Return the containers of a Compose project."""
        return [
            each
            for each in self.containers.values()
            if (each.body.get("Labels") or {}).get("com.docker.compose.project") == project
        ]

    def tell(self, container: Container, action: str) -> None:
        """Tell all listeners of a container's event."""
        attributes = {**(container.body.get("Labels") or {}), "name": container.name, "exitCode": str(container.code)}
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
            command = [sys.executable, str(FORWARDING), outside[0]["HostPort"], there]
            self._forwarding.append(subprocess.Popen([*self.host.inside(), *command], stdin=subprocess.DEVNULL))

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
            "Config": {key: value for key, value in container.body.items() if key not in {"HostConfig", "NetworkingConfig"}},
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
            "Labels": container.body.get("Labels") or {},
            "State": container.status,
            "Status": f"{container.status} ({container.health})",
            "Ports": [],
            "Mounts": [],
            "NetworkSettings": {"Networks": described["NetworkSettings"]["Networks"]},
            "HostConfig": {"NetworkMode": described["HostConfig"]["NetworkMode"]},
        }


def image_id(name: str) -> str:
    """Return the id that an image's name gets."""
    return f"sha256:{name.encode().hex():0<64.64}"


def matches(filters: dict[str, Any], labels: Mapping[str, str], names: tuple[str, ...]) -> bool:
    """Return whether labels and names pass Docker's filters."""
    for wanted in filters.get("label", ()):
        name, _, value = wanted.partition("=")
        if name not in labels or ("=" in wanted and labels[name] != value):
            return False
    named = filters.get("name")
    return not named or any(re.search(pattern, name) for pattern in named for name in names)


def filters_of(query: dict[str, list[str]]) -> dict[str, Any]:
    """Return the filters of a call: each has a list or an object of values."""
    return json.loads(query.get("filters", ["{}"])[0])


class _Api(BaseHTTPRequestHandler):
    """One connection of a client of the API."""

    protocol_version = "HTTP/1.1"
    server: Engine

    def log_message(self, *_: object) -> None:
        pass

    def address_string(self) -> str:
        return "unix"

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        path = re.sub(r"^/v1\.\d+", "", unquote(address.path))
        length = int(self.headers.get("Content-Length") or 0)
        self.body = json.loads(self.rfile.read(length) or b"null") if length else {}
        for wanted, pattern, answer in ROUTES:
            if wanted == ("GET" if method == "HEAD" else method) and (found := re.fullmatch(pattern, path)):
                try:
                    answer(self, *found.groups())
                except (AssertionError, KeyError, OSError, StopIteration, subprocess.CalledProcessError) as error:
                    self._say(500, {"message": repr(error)})
                return
        self.server.unknown.append(f"{method} {self.path}")
        self._say(404, {"message": f"the stand-in has no {method} {path}"})

    def _say(self, status: int, value: Any = None) -> None:
        said = b"" if value is None else value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Api-Version", API)
        self.send_header("Ostype", "linux")
        self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said)

    def ping(self) -> None:
        self._say(200, "OK")

    def version(self) -> None:
        self._say(200, {"Version": "27.5.1", "ApiVersion": API, "MinAPIVersion": "1.24", "Os": "linux", "Arch": "amd64"})

    def info(self) -> None:
        self._say(200, {"ID": "stand-in", "OSType": "linux", "Architecture": "x86_64", "ServerVersion": "27.5.1"})

    def image(self, name: str) -> None:
        if name in self.server.images or name in map(image_id, self.server.images):
            identity = name if name.startswith("sha256:") else image_id(name)
            self._say(200, {"Id": identity, "RepoTags": [name], "Config": {}, "Os": "linux", "Architecture": "amd64"})
        else:
            self._say(404, {"message": f"No such image: {name}"})

    def images(self) -> None:
        self._say(200, [{"Id": image_id(name), "RepoTags": [name]} for name in self.server.images])

    def networks(self) -> None:
        filters = filters_of(self.query)
        kept = [each for each in self.server.networks.values() if matches(filters, each["Labels"], (each["Name"],))]
        self._say(200, list(map(public, kept)))

    def network(self, name: str) -> None:
        found = self.server.network(name)
        self._say(*((200, public(found)) if found else (404, {"message": f"network {name} not found"})))

    def create_network(self) -> None:
        self._say(201, {"Id": self.server.create_network(self.body)["Id"], "Warning": ""})

    def connect(self, name: str) -> None:
        container = self.server.container(self.body["Container"])
        assert container
        self.server.connect(container, name)
        self._say(200)

    def containers(self) -> None:
        filters, every = filters_of(self.query), self.query.get("all", ["0"])[0] in {"1", "true"}
        kept = [
            self.server.listed(each)
            for each in list(self.server.containers.values())
            if (every or each.status == "running")
            and matches(filters, each.body.get("Labels") or {}, (each.name, f"/{each.name}"))
        ]
        self._say(200, kept)

    def create(self) -> None:
        if self.body["Image"] not in self.server.images:
            self._say(404, {"message": f"No such image: {self.body['Image']}"})
            return
        self._say(201, {"Id": self.server.create(self.query["name"][0], self.body).id, "Warnings": []})

    def with_container(self, name: str, act: Callable[[Container], Any], status: int = 204) -> None:
        container = self.server.container(name)
        if container is None:
            self._say(404, {"message": f"No such container: {name}"})
        else:
            value = act(container)
            self._say(status, None if status == 204 else value)

    def inspect(self, name: str) -> None:
        self.with_container(name, self.server.described, 200)

    def start(self, name: str) -> None:
        self.with_container(name, self.server.start)

    def stop(self, name: str) -> None:
        given = self.query.get("t") or self.query.get("timeout")
        self.with_container(
            name, lambda each: each.stop(float(given[0] if given else each.body.get("StopTimeout") or 10))
        )

    def kill(self, name: str) -> None:
        self.with_container(name, lambda each: each.stop(0))

    def remove(self, name: str) -> None:
        self.with_container(name, lambda each: self.server.remove(each, 0))

    def rename(self, name: str) -> None:
        def to(container: Container) -> None:
            container.name = self.query["name"][0]

        self.with_container(name, to)

    def volumes(self) -> None:
        self._say(200, {"Volumes": [], "Warnings": []})

    def events(self) -> None:
        mine: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        filters = filters_of(self.query)
        self.server.listeners.append(mine)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while True:
                event = mine.get()
                if matches(filters, event["Actor"]["Attributes"], ()):
                    line = json.dumps(event).encode() + b"\n"
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
                    self.wfile.flush()
        except OSError:
            self.close_connection = True
        finally:
            self.server.listeners.remove(mine)


def public(network: dict[str, Any]) -> dict[str, Any]:
    """Return what the API shows of a network."""
    return {key: value for key, value in network.items() if key not in {"bridge", "taken"}}


ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", "/_ping", _Api.ping),
    ("GET", "/version", _Api.version),
    ("GET", "/info", _Api.info),
    ("GET", "/events", _Api.events),
    ("GET", "/volumes", _Api.volumes),
    ("GET", "/images/json", _Api.images),
    ("GET", "/images/(.+)/json", _Api.image),
    ("GET", "/networks", _Api.networks),
    ("POST", "/networks/create", _Api.create_network),
    ("POST", "/networks/([^/]+)/connect", _Api.connect),
    ("GET", "/networks/([^/]+)", _Api.network),
    ("GET", "/containers/json", _Api.containers),
    ("POST", "/containers/create", _Api.create),
    ("GET", "/containers/([^/]+)/json", _Api.inspect),
    ("POST", "/containers/([^/]+)/start", _Api.start),
    ("POST", "/containers/([^/]+)/stop", _Api.stop),
    ("POST", "/containers/([^/]+)/kill", _Api.kill),
    ("POST", "/containers/([^/]+)/rename", _Api.rename),
    ("DELETE", "/containers/([^/]+)", _Api.remove),
]
