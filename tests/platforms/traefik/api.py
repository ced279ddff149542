"""Docker's API over HTTP, as much of it as Compose and Traefik call."""

from __future__ import annotations

import json
import queue
import re
import secrets
import subprocess
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from traefik.hosts import Container

if TYPE_CHECKING:
    from traefik.engine import Engine

API = "1.47"

COMMAND_S = 60
"""How long a command may run in a container."""


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


class Api(BaseHTTPRequestHandler):
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
        system = {"Os": "linux", "Arch": "amd64"}
        self._say(200, {"Version": "27.5.1", "ApiVersion": API, "MinAPIVersion": "1.24", **system})

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

    def create_command(self, name: str) -> None:
        def remember(container: Container) -> dict[str, str]:
            self.server.commands[number := secrets.token_hex(32)] = (container, self.body["Cmd"])
            return {"Id": number}

        self.with_container(name, remember, 201)

    def run_command(self, number: str) -> None:
        """Run it; what it prints is shown to nobody."""
        container, command = self.server.commands[number]
        if not self.body.get("Detach"):  # the connection becomes the command's, and ends with it
            self.send_response(101)
            for name, value in {"Connection": "Upgrade", "Upgrade": "tcp"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.close_connection = True
        self.server.codes[number] = container.run(command, COMMAND_S)
        if self.body.get("Detach"):
            self._say(200)

    def command_ended(self, number: str) -> None:
        self._say(200, {"ID": number, "Running": False, "ExitCode": self.server.codes[number], "Pid": 0})

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
    ("GET", "/_ping", Api.ping),
    ("GET", "/version", Api.version),
    ("GET", "/info", Api.info),
    ("GET", "/events", Api.events),
    ("GET", "/volumes", Api.volumes),
    ("GET", "/images/json", Api.images),
    ("GET", "/images/(.+)/json", Api.image),
    ("GET", "/networks", Api.networks),
    ("POST", "/networks/create", Api.create_network),
    ("POST", "/networks/([^/]+)/connect", Api.connect),
    ("GET", "/networks/([^/]+)", Api.network),
    ("GET", "/containers/json", Api.containers),
    ("POST", "/containers/create", Api.create),
    ("GET", "/containers/([^/]+)/json", Api.inspect),
    ("POST", "/containers/([^/]+)/start", Api.start),
    ("POST", "/containers/([^/]+)/stop", Api.stop),
    ("POST", "/containers/([^/]+)/kill", Api.kill),
    ("POST", "/containers/([^/]+)/rename", Api.rename),
    ("POST", "/containers/([^/]+)/exec", Api.create_command),
    ("POST", "/exec/([^/]+)/start", Api.run_command),
    ("GET", "/exec/([^/]+)/json", Api.command_ended),
    ("DELETE", "/containers/([^/]+)", Api.remove),
]
