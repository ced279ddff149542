"""nginx alone, as a stack has it, with no program behind it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import psutil
from running import PATIENCE_S, free_port, wait_for

from webapp.config.paths import ROOT
from webapp.config.settings import Settings
from webapp.stack.nginx.config import Nginx, inspect_nginx, nginx_conf
from webapp.stack.tls import publish_certificate

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")

PAGE = "/dashboard/icon.svg"
"""What nginx answers by itself, with 200."""


class Door:
    """An nginx that was started as supervisor does it."""

    def __init__(self, state_dir: Path, *, nginx: Nginx | None = None, **settings) -> None:
        self.settings = Settings(
            **{"state_dir": state_dir, "port": free_port(), "host": "127.0.0.1", "log_level": "debug", **settings}
        )
        self.port = self.settings.port
        self.log = state_dir / "log"
        self._nginx = nginx or inspect_nginx(NGINX)

    def __enter__(self):
        (self.settings.run_dir / "nginx").mkdir(parents=True, exist_ok=True)
        publish_certificate(self.settings)
        (self.settings.run_dir / "nginx.conf").write_text(nginx_conf(self.settings, self._nginx))
        self.start()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children():
                process.kill()
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def start(self) -> None:
        """Start it and wait until it listens."""
        command = [ROOT / "nginx" / "start", NGINX, self.settings.run_dir]
        with self.log.open("a") as said:
            self.process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
        wait_for(lambda: self.listens() or self.process.poll() is not None, "nginx listens")
        assert self.process.poll() is None, self.log.read_text()

    def kill_master(self) -> list[psutil.Process]:
        """Kill the master alone; returns the workers that it leaves behind."""
        workers = psutil.Process(self.process.pid).children()
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)
        return workers

    def listens(self) -> bool:
        try:
            self.connect().close()
        except OSError:
            return False
        return True

    def connect(self, source: str | None = None) -> socket.socket:
        """A bare connection from this address."""
        family = socket.AF_INET6 if ":" in self.settings.host else socket.AF_INET
        connection = socket.socket(family)
        connection.settimeout(PATIENCE_S)
        try:
            if source:
                connection.bind((source, 0))
            connection.connect((self.settings.host, self.port))
        except OSError:
            connection.close()
            raise
        return connection

    def get(self, path: str = PAGE, *, source: str | None = None, head: str = "") -> bytes:
        """The whole reply to a GET, or nothing where the connection is closed before."""
        with self.connect(source) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b""))
        return b""
