"""What an engine is. Imports nothing heavy: runtimes load when an engine of theirs is opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from webapp.domain.types import ModelInfo, Token


class Forward(Protocol):
    """One forward pass of a model, for one thread: no two threads share an instance."""

    def __call__(self, input_ids: NDArray[np.int64], mask: NDArray[np.int64], types: NDArray[np.int64]) -> NDArray[Any]:
        """Arrays of shape [rows, length] in; the model's output, shape [rows, width], float32, out.

        The output may be overwritten by the next call.
        """


class Runtime(Protocol):
    """A loaded model that can be opened for several threads."""

    def start(self, threads: int) -> None:
        """Get ready to compute, after the fork: compiled models and thread pools don't survive one."""

    def open(self) -> Forward:
        """A forward pass for the calling thread."""


class Session(Protocol):
    """An engine as one engine thread sees it."""

    def encode_query(self, query: str) -> Any:
        """Whatever the two methods below need of the query; made once a request."""

    def encode_documents(
        self, query: Any, documents: Sequence[str]
    ) -> tuple[list[NDArray[np.int32]], NDArray[np.int32], NDArray[np.bool_]]:
        """Tokenise.

        Returns:
            Token ids of each document, cut to what fits beside the query, without special tokens;
            length of each whole pair in tokens, shape [documents];
            whether anything was cut, shape [documents].
        """

    def score(self, pairs: Sequence[tuple[Any, NDArray[np.int32]]], length: int) -> NDArray[np.float32]:
        """Score (query, token ids) pairs.

        Args:
            pairs: as made by the methods above; the queries may differ.
            length: tokens to pad each row to, at least the longest pair.

        Returns:
            Logits (similarities from a bi-encoder), shape [pairs].
        """


MOST_CHARS = 4_000_000
"""No more of a text is ever tokenised: 32 MB of blanks would hold a thread for ten seconds and take gigabytes."""


class Texts(Protocol):
    """An engine's tokenizer as seen from outside: for cutting texts before they are scored, and for `/tokenize`."""

    special_tokens: int
    """Of a pair."""
    query_takes_room: bool
    """Whether query and document share the model's length."""

    def query_tokens(self, query: str) -> int:
        """Tokens of a query's first `MOST_CHARS` and what the model wants before it; special tokens not counted."""

    def offsets(self, text: str) -> NDArray[np.int32]:
        """Where each token lies in the first `MOST_CHARS` of a text: characters [start, stop), shape [tokens, 2]."""

    def tokenize(self, text: str, *, special: bool) -> Iterator[Token]:
        """Yield every token of one text; with `special`, framed as the model reads a single text."""


class Engine(Protocol):
    """A model ready to be scored with."""

    @property
    def texts(self) -> Texts:
        """Its tokenizer."""

    @property
    def info(self) -> ModelInfo:
        """What this is, for `/info`."""

    def start(self, threads: int) -> None:
        """Compile, for this process and this many engine threads. Takes up to seconds; never in the master."""

    def open_session(self) -> Session:
        """A session for the calling thread."""
