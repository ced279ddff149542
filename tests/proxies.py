"""An HTTP proxy that notes what it is asked for, and passes all of it to one service."""

from __future__ import annotations

import select
import socket
import threading
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Self


class Proxy(ThreadingTCPServer):
    """Asked for any address, it connects to one port of this machine."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.to = port
        self.asked: list[str] = []
        """Method and address of each request."""

    @property
    def variables(self) -> dict[str, str]:
        """Return the environment of a client behind it; NO_PROXY says nothing of this machine."""
        url = f"http://127.0.0.1:{self.server_address[1]}"
        names = ("http_proxy", "https_proxy", "all_proxy")
        return {**dict.fromkeys((*names, *map(str.upper, names)), url), "no_proxy": "", "NO_PROXY": ""}

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.shutdown()
        self.server_close()


class _Handler(StreamRequestHandler):
    rbufsize = 0  # what follows the head is read from the connection

    def handle(self) -> None:
        method, address, version = self.rfile.readline().decode().split()
        self.server.asked.append(f"{method} {address}")
        head = iter(self.rfile.readline, b"\r\n")
        if method == "CONNECT":
            _ = list(head)
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            said = b""
        else:
            path = "/" + address.partition("://")[2].partition("/")[2]
            kept = [line for line in head if not line.lower().startswith((b"proxy-", b"connection:"))]
            said = f"{method} {path} {version}\r\n".encode() + b"".join(kept) + b"Connection: close\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.server.to)) as service:
            service.sendall(said)
            self._pass_on(service)

    def _pass_on(self, service: socket.socket) -> None:
        while True:
            for ready in select.select([self.connection, service], [], [])[0]:
                data = ready.recv(65536)
                if not data:
                    return
                (service if ready is self.connection else self.connection).sendall(data)
