"""Read large and packed bodies in a separate process: the worker's side and the process itself.

A JSON library keeps the interpreter's lock while it parses, so a thread would block the worker as long as the hub
itself: seconds for the worst 32 MB. The process starts with the first body that needs it, ends with its worker, and is
replaced when it dies. Answers come as pickles through a pipe, which is read piece by piece: between two pieces the hub
runs. So objects are few, and long texts come in parts.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle  # nosec B403 - from our own child, over a private pipe
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import astuple, replace
from io import BufferedReader, BufferedWriter, FileIO
from pathlib import Path
from typing import Any

from webapp.api.body_reader import BodyKind, Limits, ParsedBody, read
from webapp.api.dialects.base import Call
from webapp.api.fair_worker import LONGEST_WAIT_S, FairWorker
from webapp.api.json_body import too_large
from webapp.config.paths import program
from webapp.config.resources import return_freed_blocks, trim
from webapp.domain import errors
from webapp.domain.concurrency import LONG_CHARS, Waiter, original
from webapp.domain.types import RerankRequest

MOST_CPU_S = 10.0
"""CPU seconds for one body; only a malicious one takes more."""

OUT_OF_MEMORY = signal.SIGUSR1
"""The process ends itself by this signal when it has no memory to send its answer."""

TOO_LATE = "the time was over before the body was read"

NICENESS = 5
"""The same as the engine threads': the worker's hub goes first."""

MOST_KEPT_KB = 64 * 1024
"""A process that keeps more memory than this after a body is replaced."""

MEMORY_BYTES = 512 * 1024**2
MEMORY_FACTOR = 8
"""Memory limit of the process: this many bytes, and this many times the largest body."""

PIPE_BYTES = 64 * 1024
"""Capacity of a pipe."""


class ProcessReader:
    """A reader that has large bodies read by another process; see `webapp.api.body_reader.Reader`."""

    def __init__(self, make_waiter: Callable[[], Waiter], limits: Limits) -> None:
        """Prepare; the process starts with the first body that needs it.

        Args:
            make_waiter: makes the waiter of one caller; callers take turns.
            limits: what a body may hold.
        """
        self._turns = FairWorker(make_waiter)
        self._limits = limits
        self._process: _Process | None = None

    def __call__(self, kind: BodyKind, call: Call, deadline: float, client: str = "") -> Any:
        """See `Reader`."""
        if not call.large:
            return read(kind, call, self._limits)
        try:
            return self._turns(client, deadline, lambda: self._read(kind, call, deadline))
        except TimeoutError:
            raise errors.DeadlineExceededError(TOO_LATE) from None

    def stop(self) -> None:
        """End the process."""
        self._turns.end()
        if process := self._process:
            process.end()
            self._process = None

    def _read(self, kind: BodyKind, call: Call, deadline: float) -> Any:
        """Have a body read by the process; if that died before, a new one gets a second try."""
        for again in (False, True):
            left_s = min(deadline - time.monotonic(), LONGEST_WAIT_S)
            if left_s <= 0:
                raise errors.DeadlineExceededError(TOO_LATE)
            try:
                process = self._process = self._process or _Process(self._limits)
            except OSError as cause:
                raise errors.UnavailableError("large bodies can't be read now", retry_after_s=1) from cause
            try:
                answer, error = process.read(kind, call, left_s)
                break
            except BaseException as cause:
                ended_by, self._process = process.end(), None  # the rest of its answer is void
                if not isinstance(cause, OSError | EOFError | pickle.UnpicklingError):
                    raise
                if refusal := _refusal(ended_by):
                    raise refusal from None
                if again:
                    raise errors.InternalError("the process that reads large bodies died") from cause
        if process.ends:
            process.end()
            self._process = None
        if error is not None:
            raise error
        return answer


class _Process:
    """The other process, as the worker sees it. Used on native threads: gevent patches nothing of it."""

    def __init__(self, limits: Limits) -> None:
        pipes: list[int] = []
        try:
            pipes += os.pipe()
            pipes += os.pipe()
            theirs_in, ours_out, ours_in, theirs_out = pipes
            self._pid: int = original("os", "posix_spawn")(
                sys.executable,
                program(__name__, *map(str, astuple(limits))),
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs_in, 0), (os.POSIX_SPAWN_DUP2, theirs_out, 1)],
                setsigmask=(),
            )
        except OSError:
            for descriptor in pipes:
                os.close(descriptor)
            raise
        os.close(theirs_in)
        os.close(theirs_out)
        os.set_blocking(ours_out, False)  # a write takes what the pipe has room for
        self._pipes = _Pipe(ours_out, "wb"), _Pipe(ours_in, "rb")
        self._questions, self._answers = BufferedWriter(self._pipes[0]), BufferedReader(self._pipes[1], PIPE_BYTES)
        self.ends = False
        """Whether it ends by itself after its last answer."""

    def read(self, kind: BodyKind, call: Call, seconds: float) -> tuple[Any, Exception | None]:
        """Have one body read within `seconds` of wall time.

        Returns:
            The result of `read` and None, or None and the error that it raised.

        Raises:
            OSError, EOFError, UnpicklingError: the process died, or did not answer in time.
        """
        for pipe in self._pipes:
            pipe.until = time.monotonic() + seconds
        headers = _Headers((name.lower(), value) for name, value in call.headers.items())
        question = (kind, Call(call.path, headers, call.body, model_url=call.model_url), seconds, MOST_CPU_S)
        pickle.dump(question, self._questions, pickle.HIGHEST_PROTOCOL)
        self._questions.flush()
        outcome: tuple[Any, Exception | None]
        outcome = pickle.load(self._answers)  # noqa: S301 # nosec B301 - our own child's
        self.ends = pickle.load(self._answers)  # noqa: S301 # nosec B301
        return outcome

    def end(self) -> int:
        """Kill the process; return the signal that ended it."""
        status = 0
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._pid, signal.SIGKILL)
            _, status = original("os", "waitpid")(self._pid, 0)
        for pipe in self._pipes:
            pipe.until = 0.0  # closing must not wait to send the rest
        for end in (self._questions, self._answers):  # now: a reader holds their locks until the process ends
            with contextlib.suppress(OSError):
                end.close()
        return os.WTERMSIG(status)


class _Pipe(FileIO):
    """One end of a pipe to a process that may hang."""

    until = 0.0
    """Monotonic time at which reads and writes time out."""

    def readinto(self, buffer: Any, /) -> int:
        self._wait(select.POLLIN)
        return super().readinto(buffer)

    def write(self, data: Any, /) -> int:
        self._wait(select.POLLOUT)
        return super().write(data)

    def _wait(self, event: int) -> None:
        poll = original("select", "poll")()
        poll.register(self, event)
        if not poll.poll(max(0.0, self.until - time.monotonic()) * 1000):
            raise TimeoutError("the process that reads large bodies says nothing")


class _Headers(dict[str, str]):
    """Headers under lower-case names, looked up whatever the case."""

    def get(self, name: str, default: Any = None, /) -> Any:
        return super().get(name.lower(), default)


def _refusal(ended_by: int) -> errors.RerankError | None:
    """Return the error of a body, by the signal that ended the process; None if that says nothing of the body."""
    if ended_by == signal.SIGALRM:
        return errors.DeadlineExceededError(TOO_LATE)
    if ended_by == signal.SIGPROF:
        return errors.PayloadTooLargeError(f"the body takes more than {MOST_CPU_S:g} s to read; divide it")
    if ended_by == OUT_OF_MEMORY:
        return errors.PayloadTooLargeError("the body takes too much memory to read; divide it")
    return None


class _LongText:
    """A text that is pickled in parts."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __reduce__(self) -> tuple[Any, ...]:
        parts = [self._text[start : start + LONG_CHARS] for start in range(0, len(self._text), LONG_CHARS)]
        return "".join, (parts,)


def serve(questions: BufferedReader, answers: BufferedWriter, limits: Limits) -> None:
    """Read bodies until the worker ends, or one left much memory. A body that takes too long ends this process."""
    while True:
        try:
            kind, call, seconds, cpu_seconds = pickle.load(questions)  # noqa: S301 # nosec B301 - our own parent's
        except (EOFError, pickle.UnpicklingError):  # the worker ended, maybe in the middle of a question
            return
        signal.setitimer(signal.ITIMER_REAL, seconds)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        answer = _answer(kind, call, limits)
        for timer in (signal.ITIMER_REAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        try:
            pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        except MemoryError:
            signal.raise_signal(OUT_OF_MEMORY)
        answers.flush()
        del kind, call, answer
        gc.collect()
        trim()
        last = _kept_kb() > MOST_KEPT_KB
        pickle.dump(last, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()
        if last:
            return


def _kept_kb() -> int:
    """Return the anonymous memory of this process, in KB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split(maxsplit=1)[0])


def _answer(kind: BodyKind, call: Call, limits: Limits) -> tuple[Any, Exception | None]:
    try:
        return _within(read(kind, call, limits), limits.documents), None
    except errors.RerankError as error:
        error.__cause__ = error.__context__ = None  # they would be sent, too, and quote the body
        return None, error
    except MemoryError:
        return None, _refusal(OUT_OF_MEMORY)
    except Exception as error:  # noqa: BLE001 - the border: the worker logs the name
        return None, RuntimeError(f"{type(error).__name__} in the process that reads large bodies")


def _within(answer: Any, most: int) -> Any:
    """Return an answer to send, or the refusal of more documents than the worker ever takes."""
    if not isinstance(answer, ParsedBody):
        return answer
    pairs = sum(len(each.documents) for each in answer.good)
    if pairs > most:
        held = f"the request holds {pairs} documents, this service takes {most} at a time"
        return ParsedBody(answer.dialect, error=too_large(held, most))
    answer.requests = [_in_parts(each) if isinstance(each, RerankRequest) else each for each in answer.requests]
    return answer


def _in_parts(request: RerankRequest) -> RerankRequest:
    """Return a request with long texts that are sent in parts."""
    texts = (request.query, request.instruction or "", *request.documents)
    long = {id(text): _LongText(text) for text in texts if len(text) > LONG_CHARS}
    if not long:
        return request

    def each(value: Any) -> Any:
        return long.get(id(value), value)

    return replace(
        request,
        query=each(request.query),
        instruction=each(request.instruction),
        documents=list(map(each, request.documents)),
        originals=list(map(each, request.originals)),
    )


def main() -> None:
    """Run the process."""
    limits = Limits(*map(int, sys.argv[1:]))
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # the worker's descriptors
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the worker drains; we end when it does
    memory = MEMORY_BYTES + MEMORY_FACTOR * limits.body_bytes
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    os.nice(NICENESS)
    return_freed_blocks()
    gc.disable()  # it would scan millions of live values again and again
    with contextlib.suppress(BrokenPipeError), open(0, "rb") as questions, open(1, "wb") as answers:
        serve(questions, answers, limits)
    os._exit(0)


if __name__ == "__main__":
    main()
