"""A stand-in for the API of a Kubernetes cluster, in memory: Helm can install, upgrade and roll back a chart in it."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import yaml

KINDS = {
    "v1": {"Secret": "secrets", "Service": "services", "ServiceAccount": "serviceaccounts"},
    "apps/v1": {"Deployment": "deployments"},
    "autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
}


class Cluster:
    """Keeps what is applied, by its path. As Kubernetes does, it refuses to change the selector of a Deployment."""

    def __init__(self) -> None:
        self.objects: dict[str, dict] = {}
        cluster = self

        class Handler(_Handler):
            objects = cluster.objects

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def kept(self, kind: str) -> dict[str, dict]:
        """Return the objects of a kind by their names."""
        return {found["metadata"]["name"]: found for found in self.objects.values() if found["kind"] == kind}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: else each reply waits 40 ms for an acknowledgement
    objects: dict[str, dict]

    def do_GET(self):
        path = urlsplit(self.path).path
        if path in self.objects:
            self._reply(200, self.objects[path])
        elif (answer := _discovery(path)) is not None:
            self._reply(200, answer)
        else:
            self._refuse(404, "NotFound", f"{path} not found")

    def do_PATCH(self):
        """Apply an object: Helm and kubectl send it whole, as YAML."""
        path, sent = urlsplit(self.path).path, yaml.safe_load(self._body())
        there = self.objects.get(path)
        if there and there["kind"] == "Deployment" and there["spec"]["selector"] != sent["spec"]["selector"]:
            self._refuse(422, "Invalid", f"{path}: spec.selector: field is immutable")
            return
        sent["metadata"] |= {"namespace": path.split("/namespaces/")[1].split("/")[0], "uid": path}
        self.objects[path] = sent
        self._reply(200, sent)

    def do_DELETE(self):
        self._body()
        self._reply(200, self.objects.pop(urlsplit(self.path).path, {}))

    def log_message(self, *_):
        pass

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _refuse(self, status: int, reason: str, message: str) -> None:
        about = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
        self._reply(status, about | {"reason": reason, "message": message, "code": status})

    def _reply(self, status: int, answer: dict) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _discovery(path: str) -> dict | None:
    """Return what a client asks first: versions, groups, and the kinds and operations of a group."""
    groups = [dict(zip(("name", "version"), version.split("/"), strict=True)) for version in KINDS if "/" in version]
    versions = [{"groupVersion": f"{each['name']}/{each['version']}", "version": each["version"]} for each in groups]
    roots = {(f"/apis/{version}" if "/" in version else f"/api/{version}"): version for version in KINDS}
    answers = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [
                {"name": each["name"], "versions": [version], "preferredVersion": version}
                for each, version in zip(groups, versions, strict=True)
            ],
        },
        "/openapi/v3": {"paths": {root[1:]: {"serverRelativeURL": f"/openapi/v3{root}"} for root in roots}},
        **{root: _kinds(version) for root, version in roots.items()},
        **{f"/openapi/v3{root}": _operations(root, version) for root, version in roots.items()},
    }
    return answers.get(path)


def _kinds(version: str) -> dict:
    """Return the kinds of a group's version."""
    verbs = ["create", "delete", "get", "list", "patch", "update"]
    kinds = [
        {"name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": verbs}
        for kind, plural in KINDS[version].items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": kinds}


def _operations(root: str, version: str) -> dict:
    """Return what says that the server itself validates fields, so that a client needs no schema."""
    group, _, name = version.rpartition("/")
    paths = {
        f"{root}/namespaces/{{namespace}}/{plural}/{{name}}": {
            "patch": {
                "parameters": [{"name": "fieldValidation", "in": "query"}],
                "x-kubernetes-group-version-kind": {"group": group, "kind": kind, "version": name},
            }
        }
        for kind, plural in KINDS[version].items()
    }
    return {"openapi": "3.0.0", "info": {"title": "", "version": ""}, "paths": paths}
