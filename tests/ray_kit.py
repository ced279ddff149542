"""A Ray cluster of one node with the service on it, and ways to look into it and to harm it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import psutil
import requests
import yaml
from running import PATIENCE_S, alive, wait_for

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / ".venv-ray" / "bin"
SHIPPED = ROOT / "deploy" / "ray" / "serve.yaml"

NO_RAY = "" if (PROGRAMS / "serve").exists() else "Ray is not installed; ./scripts/ray installs it into .venv-ray"


def shipped_config(port, variables, **options):
    """`serve.yaml` as it is shipped, but for what this machine must have its own way."""
    config = yaml.safe_load(SHIPPED.read_text())
    config["http_options"]["port"] = port
    (application,) = config["applications"]
    application["runtime_env"]["env_vars"] |= {f"RERANK_{name.upper()}": value for name, value in variables.items()}
    (deployment,) = application["deployments"]
    deployment.update(options)
    if "num_replicas" in options:
        del deployment["autoscaling_config"]
    return config


def free_low_port() -> int:
    """One that no connection is given by chance (Linux gives 32768 and above): Ray opens hundreds while it starts."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


class RayCluster:
    """`ray start --head` in a process of its own, on the loopback interface, and what it starts."""

    def __init__(self, folder: Path, *, cpus: int = 4, environment: Mapping[str, str] | None = None, **options) -> None:
        """`environment` is Ray's, `options` are the deployment's; settings of the service follow by `deploy`."""
        self.folder = folder
        self.port = free_low_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.options = {"num_replicas": 2, **options}
        self._cpus = cpus
        self._dashboard = f"http://127.0.0.1:{free_low_port()}"
        self._temp = Path(tempfile.mkdtemp(prefix="ray"))  # its unix sockets need a short path
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RERANK_")},
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's word for: this machine alone, by loopback addresses
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",  # else it depends on whether this user has a token already
            "RAY_DASHBOARD_ADDRESS": self._dashboard,
            "RAY_worker_niceness": "0",  # other programs of this machine would starve it
            **(environment or {}),
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def start(self) -> None:
        command = [
            *(PROGRAMS / "ray", "start", "--head", "--block", "--disable-usage-stats"),
            *("--node-ip-address=127.0.0.1", f"--num-cpus={self._cpus}", "--object-store-memory=100000000"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={self._dashboard.rpartition(':')[2]}"),
            *(f"--port={free_low_port()}", f"--dashboard-agent-listen-port={free_low_port()}"),
            *(f"--ray-client-server-port={free_low_port()}", f"--temp-dir={self._temp}"),
        ]
        with (self.folder / "ray.out").open("w") as said:
            self.process = subprocess.Popen(
                [str(part) for part in command], env=self._environment, stdout=said, stderr=subprocess.STDOUT
            )
        try:
            wait_for(self._answers, "Ray's dashboard answers")
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "ray.out").read_text()[-2000:]
        try:
            return requests.get(f"{self._dashboard}/api/serve/applications/", timeout=PATIENCE_S).ok
        except requests.RequestException:
            return False

    def stop(self) -> None:
        """End every process of the cluster; Ray's own way takes half a minute."""
        family = self.family()
        self.process.kill()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(PATIENCE_S)
        wait_for(lambda: not any(map(alive, family)), "all are dead")
        shutil.rmtree(self._temp, ignore_errors=True)

    @property
    def logs(self) -> Path:
        """Where Ray keeps what its processes say."""
        return self._temp / "session_latest" / "logs"

    def family(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def serve(self, *arguments: str) -> str:
        """`serve status`, `serve config`, ..."""
        done = subprocess.run(
            [str(PROGRAMS / "serve"), *arguments],
            env=self._environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def deploy(self, variables=None, *, wait=True, **options) -> None:
        """`serve deploy`, as an operator does; `variables` are settings in the environment, `options` Serve's."""
        self.variables = variables if variables is not None else self.variables
        self.options |= options
        file = self.folder / "serve.yaml"
        file.write_text(yaml.safe_dump(shipped_config(self.port, self.variables, **self.options)))
        self.serve("deploy", str(file))
        if wait:
            wait_for(self.running, "the deployment runs")

    def application(self) -> dict:
        told = requests.get(f"{self._dashboard}/api/serve/applications/", timeout=PATIENCE_S).json()
        return told["applications"].get("reranking", {})

    def deployment(self) -> dict:
        return self.application().get("deployments", {}).get("reranking", {})

    def replicas(self) -> list[int]:
        """Pids of those that serve."""
        return [each["pid"] for each in self.deployment().get("replicas", []) if each["state"] == "RUNNING"]

    def running(self) -> bool:
        application = self.application()
        assert application.get("status") != "DEPLOY_FAILED", application
        return application.get("status") == "RUNNING" and self.deployment()["status"] == "HEALTHY"

    def rerank(self, documents=("bees find home", "milk"), **options) -> requests.Response:
        body = {"query": "how do bees find home", "documents": list(documents), **options.pop("body", {})}
        return requests.post(f"{self.url}/rerank", json=body, timeout=PATIENCE_S, **options)
