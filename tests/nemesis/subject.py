"""The stack that is harmed, with its disk, its Redis and its reader of logs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import psutil
import requests
import small_models
from processes import processes_of
from redis_kit import Redis
from release_stack import ReleaseStack

from nemesis.known import HEADERS, KEY, PAGES, Known
from webapp.config.settings import Settings
from webapp.engine.prepare import autotune
from webapp.engine.prepare.pipeline import prepare
from webapp.engine.runtimes.native import library

DISK_MB = 2048
"""Size of a file system in memory, which takes only the memory of what is on it."""

WORKERS = 2

KEPT_LINES = 1000
"""Lines of the stack's standard output that are kept: in memory, for the disk may be full."""

OTHER_ADDRESS = "127.0.0.66"
"""Where hostile clients come from: what is refused to an address is not refused to others."""

OPEN_GATE: dict[str, Any] = {
    "gate_max_score_error": 1,
    "gate_mean_score_error": 1,
    "gate_min_tau": -1,
    "gate_min_top10_overlap": 0,
}
"""A model with random weights is no judge of int8's fidelity."""

KINDS = {
    "serve": "webapp serve",
    "supervisord": "webapp.stack.supervisor.logging",
    "gunicorn": "-m gunicorn",
    "pusher": "-m pusher",
    "exporter": "telemetry.exporter",
    "nginx": "nginx: master",
    "leaving nginx worker": "is shutting down",
    "nginx worker": "nginx: worker",
    "comparison": "webapp.stack.releases.comparison",
    "reading process": "webapp.api.body_process",
}
"""Kinds of processes, and what their command lines hold: the first that fits is the kind."""

AS_NEEDED = frozenset({"comparison", "leaving nginx worker", "reading process"})
"""Kinds that come and go. An nginx worker leaves when the last open dashboard does."""


class BrokenError(Exception):
    """The service is not whole again, or refused what an operator asked of it."""


class Subject(ReleaseStack):
    """A whole stack that logs to a pipe, or to files, with what it depends on."""

    def __init__(self, place: Path, *, redis: Redis | None, patience_s: float) -> None:
        """Prepare its model.

        Args:
            place: a directory that is its own; the state is in it.
            redis: which scores are shared in.
            patience_s: longest wait until it is whole again.
        """
        self.redis = redis
        self.patience_s = patience_s
        self.place = place
        self.process: subprocess.Popen[str] | None = None
        self.reading = threading.Event()
        self.reading.set()
        native = library() is not None
        chosen: dict[str, Any] = {
            "model": str(_model(place)),
            "engine": "native" if native else "openvino",
            "precision": "int8" if native else "fp32",
            "engine_threads": 1,
            "max_length_tokens": 64,
            **OPEN_GATE,
        }
        settings = Settings(state_dir=place / "state", **chosen)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            autotune.MEASURED_S = 0.01
            prepare(settings, lambda _: None)
        self.known = Known.by_artifact(settings, exact=native)
        super().__init__(
            settings.state_dir,
            **{name: str(value) for name, value in chosen.items()},
            workers=str(WORKERS),
            cache_mb="1",
            request_timeout_s="60",
            api_keys=KEY,
            redis_url=redis.url if redis else "",
            log_level="info",
        )
        self.log_to("stdout")

    @property
    def logs_to_stdout(self) -> bool:
        """Return whether all lines go to the pipe."""
        return self._environment["RERANK_LOG_TO"] == "stdout"

    def log_to(self, where: str) -> None:
        """Choose where the next start logs to: `stdout` or `files`."""
        self._environment["RERANK_LOG_TO"] = where

    def begin(self, output: Path | None = None) -> subprocess.Popen:
        """Start without waiting, with a reader of its standard output."""
        assert output is None
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.process = subprocess.Popen(
            [self.python, "-m", "webapp", *self.command],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=self._read, args=(self.process.stdout, self._lines), daemon=True).start()
        return self.process

    def _read(self, said: IO[str], lines: deque[str]) -> None:
        for line in said:
            lines.append(line)
            self.reading.wait()
        said.close()

    def _first_words(self) -> str:
        said = "".join(list(self._lines))
        return said if "Ready: " in said or self.ended else ""

    @property
    def ended(self) -> bool:
        """Return whether `serve` has ended."""
        return self.process.poll() is not None

    def end(self) -> None:
        """Kill every process of it that there is."""
        self.reading.set()
        for process in processes_of(self):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.process is not None:
            self.process.wait()
        self.patiently(lambda: not processes_of(self), "nothing is left of the stack")

    def start_anew(self) -> None:
        """Start after it has ended; logs go where they did not go before."""
        self.log_to("files" if self.logs_to_stdout else "stdout")
        self.start()

    def patiently(self, condition: Callable[[], Any], what: str) -> Any:
        """Poll until `condition()` is truthy, and return it.

        Raises:
            BrokenError: it was not, within the patience that was chosen.
        """
        give_up = time.monotonic() + self.patience_s
        while time.monotonic() < give_up:
            if result := condition():
                return result
            time.sleep(0.05)
        raise BrokenError(f"waited {self.patience_s:g} s in vain: {what}")

    def by_kind(self) -> dict[str, list[psutil.Process]]:
        """Return the living processes of the stack, by kind."""
        found: dict[str, list[psutil.Process]] = {kind: [] for kind in KINDS}
        for process in processes_of(self):
            with contextlib.suppress(psutil.Error):
                command = " ".join(process.cmdline())
                kind = next((kind for kind, words in KINDS.items() if words in command), None)
                if kind:
                    found[kind].append(process)
        return found

    def masters(self) -> list[psutil.Process]:
        """Return gunicorn's masters: one, or two while colors change."""
        gunicorn = self.by_kind()["gunicorn"]
        pids = {each.pid for each in gunicorn}
        return [each for each in gunicorn if _parent(each) not in pids]

    def unlike(self, before: dict[str, int]) -> str:
        """Return how the processes differ from those before, in words; empty where they don't."""
        now = self.count()
        strays = {kind: (before[kind], now[kind]) for kind in before if before[kind] != now[kind]}
        return ", ".join(f"{kind}: {now} instead of {was}" for kind, (was, now) in strays.items())

    def count(self) -> dict[str, int]:
        """Return how many processes there are of each kind that is always there, and of those that nobody reaped."""
        counts = {kind: len(found) for kind, found in self.by_kind().items() if kind not in AS_NEEDED}
        return {**counts, "zombie": sum(map(_is_zombie, self.family()))}

    def answers(self) -> bool:
        """Return whether every part of the service answers."""
        try:
            return all(self._get(path).status_code == 200 for path in PAGES)
        except requests.RequestException:
            return False

    def _get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, headers=HEADERS, timeout=5)

    def rests(self) -> bool:
        """Return whether no request is at work, and none is shown as running."""
        shown = self._get("/progress").json()["running"]
        loads = [self._get("/load").json()["server_load"] for _ in range(4 * WORKERS)]
        return not shown and not any(loads)

    def taken(self) -> tuple[int, int]:
        """Return megabytes and file descriptors of all processes together."""
        size = descriptors = 0
        for process in processes_of(self):
            with contextlib.suppress(psutil.Error, OSError):
                size += process.memory_full_info().pss
                descriptors += process.num_fds()
        return size // 1024**2, descriptors

    def deploy(self, *options: str) -> None:
        """Deploy the same again. A canary that others on the machine have made slow is refused rightly.

        Raises:
            BrokenError: it was refused for another reason.
        """
        try:
            self.operate("deploy", "--again", *options)
        except BrokenError as error:
            if "the new color is slower" not in str(error):
                raise

    def operate(self, *arguments: str) -> None:
        """Run a command of `reranking`, which has to succeed.

        Raises:
            BrokenError: it did not.
        """
        code, said = self.reranking(*arguments)
        if code:
            last = (said.strip().splitlines() or [""])[-1]
            raise BrokenError(
                f"`reranking {' '.join(arguments)}` ended with {code}: {last.replace(str(self.state_dir), '...')}"
            )


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return 0


def _model(place: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return small_models.build_bert(place / "model")


@contextlib.contextmanager
def own_place() -> Iterator[Path]:
    """Make a directory that is gone afterwards: where it may be mounted, a small disk of its own that can be filled."""
    place = Path(tempfile.mkdtemp(prefix="nemesis-"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(place)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield place
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def running_subject(patience_s: float) -> Iterator[Subject]:
    """Start a stack of its own, of which nothing is left afterwards."""
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(own_place())
        redis = stack.enter_context(Redis()) if shutil.which("redis-server") else None
        subject = Subject(place, redis=redis, patience_s=patience_s)
        stack.callback(subject.end)
        subject.start()
        subject.known.learn_dialects(subject.url)
        yield subject
