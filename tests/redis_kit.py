"""A real redis-server, and ways to harm it; and one that answers whatever a test tells it to."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator

import pytest
from running import free_port, wait_for


class Redis:
    """A server on a port of its own that keeps nothing on disk."""

    def __init__(self, password: str = "") -> None:
        self.program = shutil.which("redis-server")
        if self.program is None:
            pytest.skip("redis-server is not installed")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._password = password

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        options += ["--requirepass", self._password] if self._password else []
        self.process = subprocess.Popen([self.program, *options], stdout=subprocess.DEVNULL)
        wait_for(lambda: self.command("ping").strip() in {"PONG", "NOAUTH Authentication required."}, "redis answers")

    def command(self, *words: str) -> str:
        command = [shutil.which("redis-cli"), "-p", str(self.port), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.kill()


NONSENSE = {
    "an integer": b":7\r\n",
    "a string": b"+fine\r\n",
    "a text": b"$5\r\nhello\r\n",
    "nothing": b"$-1\r\n",
    "no list": b"*-1\r\n",
    "an empty list": b"*0\r\n",
    "too few": b"*1\r\n$-1\r\n",
    "too many": b"*9\r\n" + b"$-1\r\n" * 9,
    "integers": b"*2\r\n:1\r\n:2\r\n",
    "texts": b"*2\r\n$5\r\nhello\r\n$5\r\nhello\r\n",
    "lists in a list": b"*2\r\n*1\r\n:1\r\n*1\r\n:1\r\n",
    "lists without end": b"*1\r\n" * 1000,
    "a list of a billion": b"*1000000000\r\n",
    "a list of a billion in a list": b"*2\r\n*1000000000\r\n",
    "a text of a billion": b"$1000000000\r\nhello",
    "integers without end": b"*1000000000\r\n" + b":1\r\n" * 100_000,
    "a line without end": b"+" + b"a" * 400_000,
    "errors in a list": b"*2\r\n-ERR one\r\n-ERR two\r\n",
    "an error": b"-ERR whatever\r\n",
    "an error without a name": b"-\r\n",
    "another protocol's map": b"%1\r\n+a\r\n:1\r\n",
    "another protocol's push": b">2\r\n+message\r\n+hello\r\n",
    "garbage": bytes(range(128, 256)),
    "zeros": b"\0" * 100,
    "HTTP": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "a negative length": b"$-7\r\n",
    "a length that is no number": b"$x\r\n",
    "half an answer, then the end": b"*2\r\n$14\r\nabc",
    "the end": b"",
}
"""Answers that no Redis gives to our questions; the connection is closed after one only where the name says so."""


class FakeRedis:
    """A server on a real socket that understands commands and sends what `answer` returns for each: maybe without end.

    It remembers in `asked` the number of the connection, and the command, of all that it was asked.
    """

    def __init__(self, answer: Callable[[int, list[bytes]], bytes | Iterable[bytes]]) -> None:
        self._answer = answer
        self.asked: list[tuple[int, list[bytes]]] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.url = f"redis://127.0.0.1:{self._server.getsockname()[1]}"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        for each in (self._server, *self._connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._server.accept()
                self._connections.append(connection)
                number = len(self._connections)
                threading.Thread(target=self._serve, args=(number, connection), daemon=True).start()

    def _serve(self, number: int, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as questions:
            for command in _commands(questions):
                self.asked.append((number, command))
                answer = self._answer(number, command)
                for piece in [answer] if isinstance(answer, bytes) else answer:
                    connection.sendall(piece)
                if not answer or answer == NONSENSE["half an answer, then the end"]:
                    return


def _commands(questions) -> Iterator[list[bytes]]:
    while header := questions.readline():
        words = []
        for _ in range(int(header[1:])):
            length = int(questions.readline()[1:])
            words.append(questions.read(length + 2)[:-2])
        yield words
