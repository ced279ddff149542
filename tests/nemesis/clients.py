"""Well-behaved clients that ask all the time, and what became of each of their requests."""

from __future__ import annotations

import gzip
import http.client
import itertools
import json
import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import socketio

from nemesis.judging import NO_EXCUSE, Excuse, Reply, Verdict, judge
from nemesis.known import HEADERS, KEY, PAGES, Ask, Known, page

PATIENCE_S = 90.0
"""Longest wait for a reply: above the service's own deadline of a minute, so that only a hang takes so long."""

PAUSE_S = (0.02, 0.1)
"""Between a client's requests: they are there all the time, and leave some of the cores to what is tested."""

AFTER_REFUSAL_S = 0.2

IN_A_ROW = 2
"""So many right replies in a row, to each client, say that the service is whole. One alone may come by luck; of a large
request it is enough."""

SHOWN = 5
"""Problems of a window that are kept in words; the others are counted."""


@dataclass(eq=False)
class Window:
    """What clients met while a fault went on, until the service was whole again."""

    fault: str
    began_s: float
    """Seconds since the run began."""
    excuse: Excuse = NO_EXCUSE
    met: Counter[Verdict] = field(default_factory=Counter)
    longest_s: float = 0.0
    problems: list[str] = field(default_factory=list)


class Clients:
    """Clients of all kinds; inside `with`."""

    def __init__(self, url: str, known: Known, seed: int) -> None:
        port = int(url.rpartition(":")[2])
        kinds: dict[str, Callable[[random.Random], Ask]] = {
            "small": known.small,
            "small, kept connection": known.small,
            "medium": known.medium,
            "large": known.large,
            "large, another": known.large,
            "compressed": known.compressed,
            "batch": known.batch,
            "dialect": known.dialect,
            "dialect, kept connection": known.dialect,
        }
        self.calm = self.window = Window("none, between the others", 0.0)
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.all = [Client(self, name, port, seed, make) for name, make in kinds.items()]
        self.all += [Client(self, path, port, seed, lambda _, path=path: page(path)) for path in PAGES]
        self.all.append(Follower(self, "followed", port, seed, known.small))
        self.browser = Browser(url)

    def now_s(self) -> float:
        """Return the seconds since the run began."""
        return time.monotonic() - self._began

    @property
    def stopping(self) -> bool:
        """Return whether clients shall make no further request."""
        return self._stop.is_set()

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self.browser.start()
        for client in self.all:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.browser.stop()
        for client in self.all:
            client.join()

    def open(self, fault: str, excuse: Excuse) -> Window:
        """Begin a window; what overlaps it belongs to it."""
        self.window = Window(fault, self.now_s(), excuse)
        return self.window

    def close(self) -> None:
        """End the window."""
        self.window = self.calm

    def record(self, client: Client, began_in: Window, took_s: float, words: Callable[[Excuse], tuple]) -> Verdict:
        """Judge what a request got by the faults that overlapped it, and count it with them."""
        with self._lock:
            overlapped = {began_in, self.window}
            excuse = began_in.excuse | self.window.excuse
            verdict, why = words(excuse)
            for window in overlapped - {self.calm} or {self.calm}:
                window.met[verdict] += 1
                window.longest_s = max(window.longest_s, took_s)
                if verdict in {Verdict.LOST, Verdict.WRONG} and len(window.problems) < SHOWN:
                    at_s = self.now_s()
                    window.problems.append(
                        f"{verdict}: {window.fault}, at {at_s:.1f} s ({at_s - window.began_s:.1f} s after it began),"
                        f" {client.name}, request {client.count}: {why} after {took_s:.1f} s"
                    )
        return verdict

    def turn(self, most_s: float) -> list[str]:
        """Wait until each client has ended a request that it began after now; return those that have not, by name."""
        since = time.monotonic()
        return self._late(since, most_s, lambda client: client.last_began)

    def well(self, most_s: float) -> list[str]:
        """Wait until each client got right replies alone for some requests that it began after now.

        Returns:
            The clients that did not, by name.
        """
        since, heard = time.monotonic(), self.browser.heard
        late = self._late(since, most_s, Client.right_since)
        give_up = since + most_s
        while self.browser.heard == heard and time.monotonic() < give_up:
            time.sleep(0.05)
        return late + ([] if self.browser.heard > heard else ["dashboard"])

    def _late(self, since: float, most_s: float, when: Callable[[Client], float]) -> list[str]:
        give_up = time.monotonic() + most_s
        while (late := [client.name for client in self.all if when(client) < since]) and time.monotonic() < give_up:
            time.sleep(0.02)
        return late


class Client(threading.Thread):
    """One client, with one request at a time."""

    def __init__(self, clients: Clients, name: str, port: int, seed: int, make: Callable[[random.Random], Ask]) -> None:
        super().__init__(name=name, daemon=True)
        self.count = 0
        self.last_began = 0.0
        """When the last request that ended began."""
        row = 1 if "large" in name else IN_A_ROW
        self._right: deque[float] = deque([0.0] * row, row)
        """When those began that got a right reply, after the last that did not."""
        self._clients = clients
        self._port = port
        self._make = make
        self._rng = random.Random(f"{seed} {name}")
        self._kept: http.client.HTTPConnection | None = None

    def run(self) -> None:
        for self.count in itertools.count(1):
            if self._clients.stopping:
                break
            began = time.monotonic()
            verdict = self.once(self._make(self._rng))
            self.last_began = began
            self._right.extend([began] if verdict == Verdict.RIGHT else [0.0] * IN_A_ROW)
            time.sleep(self._rng.uniform(*PAUSE_S) + (AFTER_REFUSAL_S if verdict != Verdict.RIGHT else 0))

    def right_since(self) -> float:
        """Return when the first of the last few requests began, if all of them got right replies; else 0."""
        return self._right[0]

    def once(self, ask: Ask) -> Verdict:
        """Make one request, and have it judged."""
        began, window = time.monotonic(), self._clients.window
        got = self._send(ask)
        took_s = time.monotonic() - began
        return self._clients.record(self, window, took_s, lambda excuse: judge(got, ask.right, excuse, large=ask.large))

    def _send(self, ask: Ask) -> Reply | Exception:
        kept, self._kept = self._kept, None
        got = self._exchange(kept, ask) if kept else None
        if isinstance(got, Reply | TimeoutError):
            return got
        # A kept connection may end while it is idle; its owner asks again.
        return self._exchange(http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S), ask)

    def _exchange(self, connection: http.client.HTTPConnection, ask: Ask) -> Reply | Exception:
        try:
            connection.request(
                "POST" if ask.body is not None else "GET", ask.path, ask.body, {**HEADERS, **ask.headers}
            )
            reply = connection.getresponse()
            body = reply.read()
            if reply.getheader("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
        except (OSError, EOFError, http.client.HTTPException) as error:
            connection.close()
            return error
        if "kept" in self.name:
            self._kept = connection
        else:
            connection.close()
        return Reply(reply.status, reply.headers, body)


class Follower(Client):
    """A client that follows the progress of each of its requests by server-sent events."""

    BOUND_S = 60.0
    """Longest wait for the end of a request that was answered."""
    EXCUSED_S = 5.0
    """The same, where a fault may have taken it away."""

    def once(self, ask: Ask) -> Verdict:
        """Follow a request, make it, and hear of its end."""
        name = f"{self._rng.getrandbits(64):x}"
        window, began = self._clients.window, time.monotonic()
        stream = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        try:
            opened = _opened(stream, name)
            verdict = super().once(Ask(ask.path, ask.right, ask.body, {"X-Request-Id": name}))
            if not isinstance(opened, http.client.HTTPResponse):  # refused, or no connection
                got = opened
                return self._clients.record(
                    self, window, time.monotonic() - began, lambda excuse: judge(got, lambda _: "", excuse)
                )
            if verdict == Verdict.RIGHT:
                problem = self._hear_the_end(opened, name)
                verdict = self._clients.record(self, window, 0.0, lambda excuse: _judged_stream(problem, excuse))
            return verdict
        finally:
            stream.close()

    def _hear_the_end(self, stream: http.client.HTTPResponse, name: str) -> str:
        """Return what is wrong with a stream, in words; empty where it told the end."""
        began, event = time.monotonic(), ""
        try:
            for line in stream:
                word, _, said = line.decode().strip().partition(": ")
                if word == "event":
                    event = said
                elif word == "data" and json.loads(said)["id"] != name:
                    return f"a stranger's progress: {said[:200]}"
                elif word == "data" and event in {"finished", "unknown"}:
                    return "" if event == "finished" else "the end was not told: unknown"
                bound_s = self.EXCUSED_S if self._clients.window.excuse.followers else self.BOUND_S
                if time.monotonic() - began > bound_s:
                    break
        except (OSError, http.client.HTTPException) as error:
            return f"the end was not told: {error!r}"
        return "the end was not told"


def _opened(connection: http.client.HTTPConnection, name: str) -> http.client.HTTPResponse | Reply | Exception:
    """Open the stream of a request; return it, or the refusal, or why there is none."""
    try:
        connection.request("GET", f"/progress/{name}", headers=HEADERS)
        reply = connection.getresponse()
        return reply if reply.status == 200 else Reply(reply.status, reply.headers, reply.read())
    except (OSError, http.client.HTTPException) as error:
        return error


def _judged_stream(problem: str, excuse: Excuse) -> tuple[Verdict, str]:
    if not problem:
        return Verdict.RIGHT, ""
    if problem.startswith("a stranger"):
        return Verdict.WRONG, problem
    return (Verdict.CUT if excuse.followers or excuse.cut else Verdict.LOST), problem


class Browser:
    """An open dashboard: it connects again whenever it loses its connection."""

    def __init__(self, url: str) -> None:
        self.heard = 0
        self._url = url
        logging.getLogger("engineio.client").setLevel(logging.CRITICAL)  # it may lose its connection
        self._client = socketio.Client(
            reconnection=True, reconnection_delay=0.2, reconnection_delay_max=1, randomization_factor=0
        )
        self._client.on("connect", lambda: self._client.emit("watch"))
        self._client.on("delta", self._hear)

    def start(self) -> None:
        """Connect, and watch."""
        self._client.connect(self._url, auth={"key": KEY}, transports=["websocket"])

    def stop(self) -> None:
        """Leave."""
        self._client.shutdown()

    def _hear(self, _: object) -> None:
        self.heard += 1
