"""The client for code that waits. Safe to share between threads."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Self

import httpx

from reranking_client.events import EventReader
from reranking_client.failures import CallFailedError, RefusedError
from reranking_client.parts import Answer, Document, Part, Question, merge, plan, read
from reranking_client.results import Progress, Ranking
from reranking_client.retrying import OK, Budget, CallState, NoReply, Outcome, Reply, Retries
from reranking_client.terms import (
    SILENCE_S,
    ClientConfig,
    Trust,
    headers_of,
    names_of,
    no_reply,
    request_id_of,
    timeout_of,
)

OnProgress = Callable[[int, int], None]
"""Told after each part: documents scored, documents of all."""


class RerankClient:
    """Asks one service, over connections that it keeps."""

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        timeout_s: float = 300.0,
        retries: Retries | None = None,
        budget: Budget | None = None,
        split_documents: int = 1000,
        concurrency: int = 4,
        trust: Trust = None,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connects when it is first asked.

        Args:
            url: of the service; anything in front of `/rerank`.
            key: an API key; empty: none.
            timeout_s: longest time of a call, all its tries together. Each try tells the service what is left.
            retries: when to try again; None: the usual.
            budget: of retries; None: one for this client alone.
            split_documents: larger lists become several requests.
            concurrency: most requests of one call at a time.
            trust: a file with the certificates to trust, or an SSL context; None: the system's.
            transport: httpx', for tests and proxies.
            clock: monotonic seconds.
            sleep: how to wait.

        Raises:
            ValueError: the address is none.
            OSError: `trust` can't be read.
        """
        self._terms = ClientConfig(
            url, key, timeout_s, retries or Retries(), budget or Budget(), split_documents, concurrency
        )
        self._http = httpx.Client(**self._terms.settings(trust), transport=transport)  # type: ignore[arg-type]
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._workers = 0
        self._closed = False

    def rerank(
        self,
        query: str,
        documents: Sequence[Document],
        *,
        top_n: int | None = None,
        raw_scores: bool = False,
        options: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Ranking:
        """Order documents by their relevance to a query.

        Args:
            query: the question.
            documents: texts, or mappings with `content` and perhaps `metadata`.
            top_n: how many results to return; None: all.
            raw_scores: the model's own numbers instead of 0..1.
            options: whatever else the service knows.
            timeout_s: for this call.
            request_id: to follow it, and to find it in logs; None: a new one.
            on_progress: told of each part of a list that was split.

        Raises:
            CallFailedError: there is no answer; see `failures`.
            TypeError: a document is none.
        """
        question = Question(query, documents, top_n, raw_scores, options or {})
        (answer,) = self._ask([question], timeout_s, request_id, on_progress)
        if isinstance(answer, RefusedError):
            raise answer
        return answer

    def score(self, query: str, documents: Sequence[Document], **how: Any) -> list[float]:
        """Scores in the order of the documents; `how` and errors as of `rerank`, without `top_n`."""
        ranking = self.rerank(query, documents, **how)
        return [each.score for each in sorted(ranking.results, key=lambda result: result.index)]

    def rerank_batch(
        self,
        questions: Sequence[Question],
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[Ranking | RefusedError]:
        """Answer several questions, in their order. One that the service refuses has its error in its place.

        Raises:
            CallFailedError: there is no answer to any.
        """
        return self._ask(questions, timeout_s, request_id, on_progress)

    def follow(self, request_id: str, *, timeout_s: float | None = None) -> Iterator[Progress]:
        """How far a request is, until it ended; see docs/progress.md. A broken stream is taken up again.

        Raises:
            CallFailedError: nobody tells.
        """
        began = self._clock()
        deadline = self._terms.deadline(timeout_s, began)
        effort = self._terms.effort(request_id_of(request_id), began=began, deadline=deadline)
        while True:
            timeout = timeout_of(min(SILENCE_S, effort.left_s(self._clock())))
            outcome: Outcome = NoReply("the stream ended before the request")
            try:
                with self._http.stream("GET", f"{self._terms.base}/progress/{request_id}", timeout=timeout) as stream:
                    if stream.status_code != OK:
                        outcome = Reply(stream.status_code, stream.headers, stream.read())
                    else:
                        for state in self._states(stream, effort):
                            yield state
                            if state.ended:
                                return
            except httpx.HTTPError as error:
                outcome = no_reply(error)
            self._sleep(effort.after(outcome, self._clock()) or 0.0)

    def close(self) -> None:
        """Close the connections. Where parts of a call that was left early are still at work, the last one does."""
        with self._lock:
            self._closed = True
            busy = self._workers > 0
        if not busy:  # a socket that another thread reads must not be closed: its number may be another's by then
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(
        self, questions: Sequence[Question], timeout_s: float | None, request_id: str | None, tell: OnProgress | None
    ) -> list[Answer]:
        parts = plan(questions, self._terms.split_documents)
        name = request_id_of(request_id)
        names, deadline = names_of(name, len(parts)), self._terms.deadline(timeout_s, self._clock())
        answers: list[list[Answer]] = [[] for _ in parts]
        total, done = sum(part.documents for part in parts), 0
        with contextlib.closing(self._all(parts, names, deadline)) as coming:
            for number, answer in coming:
                answers[number] = answer
                done += parts[number].documents
                if tell is not None:
                    tell(done, total)
        return merge(parts, answers, name)

    def _all(self, parts: list[Part], names: list[str], deadline: float) -> Generator[tuple[int, list[Answer]]]:
        """The parts' answers as they come, some at a time."""
        if len(parts) == 1:
            yield 0, self._answers(parts[0], names[0], deadline)
            return
        waiting, stopped = iter(range(len(parts))), threading.Event()
        told: queue.SimpleQueue[tuple[int, list[Answer] | BaseException]] = queue.SimpleQueue()

        def work() -> None:
            number = 0
            try:
                while not stopped.is_set():
                    with self._lock:
                        number = next(waiting, -1)
                    if number < 0:
                        return
                    told.put((number, self._answers(parts[number], names[number], deadline, stopped)))
            except BaseException as error:  # noqa: BLE001 - it is raised where the call was made
                stopped.set()
                told.put((number, error))
            finally:
                self._leave()

        # Daemons: a program that gives up, by Ctrl-C for one, waits for none of them.
        for _ in range(min(self._terms.concurrency, len(parts))):
            with self._lock:
                self._workers += 1
            threading.Thread(target=work, daemon=True, name="rerank-part").start()
        try:
            for _ in parts:
                number, answer = told.get()
                if isinstance(answer, BaseException):
                    raise answer
                yield number, answer
        finally:
            stopped.set()

    def _leave(self) -> None:
        with self._lock:
            self._workers -= 1
            last = self._closed and self._workers == 0
        if last:
            self._http.close()

    def _answers(self, part: Part, name: str, deadline: float, stopped: threading.Event | None = None) -> list[Answer]:
        effort = self._terms.effort(name, began=self._clock(), deadline=deadline)
        body = part.body()
        while True:
            outcome = self._try(part.path, body, effort)
            wait_s = effort.after(outcome, self._clock())
            if wait_s is None and isinstance(outcome, Reply):
                return read(part, outcome.body, name)
            if stopped is not None and stopped.is_set():
                raise CallFailedError("another part failed", request_id=name)
            self._sleep(wait_s or 0.0)

    def _try(self, path: str, body: bytes, effort: CallState) -> Outcome:
        left_s = effort.left_s(self._clock())
        headers = headers_of(effort.request_id, left_s)
        try:
            with self._http.stream(
                "POST", self._terms.base + path, content=body, headers=headers, timeout=timeout_of(left_s)
            ) as stream:
                received = bytearray()
                for piece in stream.iter_bytes():
                    received += piece
                    effort.left_s(self._clock())  # httpx' timeouts begin anew with each piece, ours doesn't
                return Reply(stream.status_code, stream.headers, bytes(received))
        except httpx.HTTPError as error:
            return no_reply(error)

    def _states(self, stream: httpx.Response, effort: CallState) -> Iterator[Progress]:
        reader = EventReader()
        for line in stream.iter_lines():
            effort.left_s(self._clock())
            state = reader.feed(line)
            if state is not None:
                effort.heard()
                yield state
