"""Protocols of engines and their parts. Imports nothing heavy: a runtime loads when an engine on it is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from webapp.domain.types import Kept, ModelInfo, Session, Token


class Forward(Protocol):
    """One forward pass of a model, for one thread: no two threads share an instance."""

    def __call__(self, input_ids: NDArray[np.int64], mask: NDArray[np.int64], types: NDArray[np.int64]) -> NDArray[Any]:
        """Compute the model's output, shape [rows, width], float32, from three arrays of shape [rows, length].

        Of a decoder the type is 0 for a row's first tokens, which other rows may begin with, too, and 1 for the others:
        no score depends on it, but a runtime may compute the former once.
        The next call may overwrite the output.
        """


class Runtime(Protocol):
    """A loaded model that can be opened for several threads."""

    padded: bool
    """Whether it computes each row of a batch to the longest one's end."""

    def start(self, threads: int) -> None:
        """Prepare to compute, after the fork: compiled models and thread pools don't survive one."""

    def open(self) -> Forward:
        """Return a forward pass for the calling thread."""


def encode_pair(
    session: Session, query: str, document: str, instruction: str = ""
) -> tuple[Any, NDArray[np.int32], int]:
    """Return the encoded query, the document's token ids, and the length of the pair in tokens."""
    own = session.encode_query(query, instruction)
    ids, lengths, _ = session.encode_documents(own, [document])
    return own, ids[0], int(lengths[0])


def score_pair(session: Session, query: str, document: str, padding: int = 0, instruction: str = "") -> float:
    """Return the logit of one pair, scored as a batch of its own with so many tokens of padding."""
    own, ids, length = encode_pair(session, query, document, instruction)
    return float(session.score([(own, ids)], length + padding)[0])


MOST_CHARS = 4_000_000
"""No more of a text is ever tokenized: 32 MB of blanks would hold a thread for ten seconds and take gigabytes."""

CHARS_PER_TOKEN_BOUND = 16
"""Characters of a long text that are read first for each token that may be kept."""

CUT_SLACK_TOKENS = 64
"""So many tokens at the end of a part are not trusted: a word that is cut there has other tokens than the whole word.
A hundred letters, more of which WordPiece reads as no word, have fewer in nearly every text."""

T = TypeVar("T", bound=Sized)


def first_chars(tokens: int) -> int:
    """Return how many characters are read first of a text of which so many tokens may be kept."""
    return min((tokens + CUT_SLACK_TOKENS) * CHARS_PER_TOKEN_BOUND, MOST_CHARS)


def part_of(text: str, chars: int, keep: Kept) -> str:
    """Return so many characters of a text, from its start or its end."""
    return text[:chars] if keep == "start" else text[-chars:]


def read_enough(text: str, tokens: int, keep: Kept, read: Callable[[str], T], chars: int = 0) -> tuple[str, T]:
    """Read a part of a text that is long enough to keep so many tokens of it.

    A tokenizer reads a text to its end whatever is kept, a second for some megabytes. So a part is tried first. It is
    too short where it holds unusually few tokens (thousands of spaces, a table with wide columns).

    Args:
        text: of any length; at most `MOST_CHARS` of it are read.
        tokens: that may be kept.
        keep: which part counts.
        read: returns the tokens of a part, one after the other.
        chars: how long the first part is; 0: as `first_chars` has it.

    Returns:
        The part and what was read of it.
    """
    chars = chars or first_chars(tokens)
    while True:
        part = part_of(text, chars, keep)
        found = read(part)
        if len(found) > tokens + CUT_SLACK_TOKENS or len(part) == len(text) or chars >= MOST_CHARS:
            return part, found
        chars = min(chars * (2 if 8 * len(found) > tokens else 8), MOST_CHARS)


class Texts(Protocol):
    """An engine's tokenizer as seen from outside: for cutting texts before they are scored, and for `/tokenize`."""

    special_tokens: int
    """How many frame a pair."""
    query_takes_room: bool
    """Whether query and document share the model's length."""
    keeps: Kept
    """Which part of a long text the engine keeps by itself."""

    def query_tokens(self, query: str, instruction: str = "") -> int:
        """Return how many tokens a query's first `MOST_CHARS` have, special tokens not counted.

        The model's words around it count, too: a prompt, or the instruction (empty: the model's default).
        """

    def document_tokens(self, document: str) -> int:
        """Return how many tokens a document's first `MOST_CHARS` have, with the model's words around it."""

    def split_room(self, query: int, document: int, room: int) -> tuple[int, int]:
        """Return how many tokens of query and document are kept where they share the model's length.

        Args:
            query: length in tokens, as `query_tokens` counts them.
            document: length in tokens, as `document_tokens` counts them.
            room: tokens that both may take together.
        """

    def offsets(self, text: str) -> NDArray[np.int32]:
        """Return characters [start, stop) of each token in the first `MOST_CHARS` of a text, shape [tokens, 2]."""

    def tokenize(self, text: str, *, special: bool) -> Iterator[Token]:
        """Yield every token of one text; with `special`, framed as the model reads a single text."""


class Engine(Protocol):
    """A model ready to be scored with."""

    @property
    def texts(self) -> Texts:
        """The model's tokenizer."""

    @property
    def info(self) -> ModelInfo:
        """The model's description, for `/info`."""

    @property
    def padded(self) -> bool:
        """Whether a row costs as much as the longest of its batch, and each new shape of a batch costs something."""

    @property
    def most_batches(self) -> int:
        """Batches that it computes at once; 0: one in each engine thread."""

    def start(self, threads: int) -> None:
        """Compile, for this process and this many engine threads. Takes up to seconds; never in the master."""

    def scores_fingerprint(self, session: Session) -> str:
        """Return a hash of the logits that this machine gives the first golden pairs; empty: there are none.

        Two machines with different hashes give different scores, if only in the last bit.

        Raises:
            SetupError: the golden pairs are damaged.
        """

    def open_session(self) -> Session:
        """Return a session for the calling thread."""
