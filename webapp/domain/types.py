"""Values that pass between the floors: requests, scores, results, and what is known of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:  # `serve` reads manifests by these types, and has no other use for numpy
    import numpy as np
    from numpy.typing import NDArray

ScoreScale = Literal["sigmoid", "cosine", "dot", "euclidean", "manhattan"]
"""What a model's raw score is (a logit, or a similarity of two vectors), and so how it is brought to 0..1."""

Kept = Literal["start", "end"]
"""Which part of a text is kept when it is cut."""


@dataclass(frozen=True, slots=True)
class Truncation:
    """Options for texts that are longer than the model reads, or than the request allows."""

    max_query_tokens: int | None = None
    max_document_tokens: int | None = None
    max_pair_tokens: int | None = None
    """Query, document and special tokens together."""
    windows: int = 1
    """Most parts a long document is scored in; the best one counts."""
    overlap_tokens: int | None = None
    """Tokens that neighbouring windows share; None lets us choose."""
    keep: Kept | None = None
    """Which part of a text is kept when it is cut; None: the one that the model's makers keep."""
    strict: bool = False
    """Refuse what the model can't read whole, rather than cut it."""


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """One question and its candidates, independent of any wire format."""

    query: str
    documents: Sequence[str]
    originals: Sequence[Any]
    """What the reply repeats of each document, where that is more than its text; as the dialect has it."""
    top_n: int | None = None
    """How many results to return; None means all."""
    raw_scores: bool = False
    return_documents: bool = True
    model: str | None = None
    """The model the caller named; not necessarily the one that is served."""
    truncation: Truncation | None = None
    """None: each pair is cut at the model's limit."""
    priority: int = 0
    """Lower goes first; see `scheduling.batching`."""
    instruction: str | None = None
    """What makes a document relevant, in words for the model; None: the model's default."""
    warnings: tuple[str, ...] = ()
    """Options of the request that have no effect, in words for the caller."""


class Token(NamedTuple):
    """A token of a text."""

    id: int
    text: str
    special: bool
    start: int | None
    """First character in the text; None for a special token."""
    stop: int | None


@dataclass(frozen=True, slots=True)
class Spent:
    """Times of a request's pairs, by phase. A moment counts once: the three add up, however many threads work."""

    queue_ms: float = 0.0
    """Waiting for an engine thread."""
    tokenise_ms: float = 0.0
    """Being tokenised, and in no batch."""
    score_ms: float = 0.0
    """In a batch."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of every pair of one request."""

    logits: NDArray[np.float32]
    """Shape [documents]."""
    truncated: NDArray[np.bool_]
    """Shape [documents]; True where the pair was longer than the model's limit."""
    tokens: int
    """Tokens of all pairs, special tokens counted, padding not."""
    cached: int
    """Documents whose scores were known."""
    spent: Spent = Spent()


@dataclass(frozen=True, slots=True)
class RerankResult:
    """The documents of one request in order of relevance."""

    request: RerankRequest
    order: list[int]
    """Indexes into the request's documents, best first."""
    scores: list[float]
    """One for each entry of `order`."""
    truncated: list[bool]
    """One for each entry of `order`."""
    tokens: int
    cached: int
    model: str
    """The id of the model that scored."""
    latency_ms: float
    spans: Sequence[tuple[int, int] | None] = ()
    """Empty, or one for each entry of `order`: the characters of the window that counted, None for an undivided one."""
    name: str = ""
    """What the model is called where the request named none; empty: by its id."""
    query_cut: bool = False
    """The query was longer than what is read of it."""
    degraded: bool = False
    """The scores come from the lexical engine."""
    spent: Spent = Spent()
    """All zeros where the cache or other requests had every score."""


class Session(Protocol):
    """An engine as one engine thread sees it; the scheduler works with it."""

    def encode_query(self, query: str, instruction: str = "") -> Any:
        """Return what the two methods below need of the query; called once a request.

        Args:
            query: the question.
            instruction: of the request; empty: the model's default. A model that takes none ignores it.

        Raises:
            InvalidRequestError: the instruction leaves no room for a query.
        """

    def encode_documents(
        self, query: Any, documents: Sequence[str]
    ) -> tuple[list[NDArray[np.int32]], NDArray[np.int32], NDArray[np.bool_]]:
        """Tokenize documents.

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


@dataclass(frozen=True, slots=True)
class Tuning:
    """Batch size and threads for a model, as measured on the machine that prepared it."""

    batch_tokens: int = 256
    engine_threads: int = 0
    """0: as many as there are cores."""
    tokens_per_s: float = 0.0
    """Measured speed with these, all engine threads together."""
    batches_at_once: int = 0
    """0: every engine thread may compute a batch. A GPU computes one while the next is written."""


@dataclass(frozen=True, slots=True)
class RecipeInfo:
    """How a decoder is served, as `/info` describes it; see `webapp.engine.recipes`."""

    name: str
    """Empty for a chat template of the model's own."""
    title: str
    licence: str
    """The licence of the family's models, as their makers state it; empty: unknown."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that serves, as `/info` describes it."""

    model: str
    revision: str
    kind: Literal["cross-encoder", "embedding", "stub"]
    engine: str
    precision: str
    max_length_tokens: int
    score_scale: ScoreScale
    activation: str = "Identity"
    """What the model itself puts its raw scores through. Our scores don't depend on it."""
    temperature: float = 1.0
    """A score in 0..1 is the sigmoid of the logit over this."""
    instruction: str | None = None
    """The instruction where a request has none, empty: none; None: the model takes none."""
    recipe: RecipeInfo | None = None
    """A decoder's."""
    fingerprint: str = ""
    """Hash of all files and templates that scores depend on."""
    kernels: str = ""
    """Instruction set and version of the native engine's kernels; empty: another engine computes."""
    substitute_for: str | None = None
    """The model that was configured when this one stands in for it, else None."""
    fidelity: dict[str, float] = field(default_factory=dict)
    """How the scores differ from sentence-transformers' own."""
    tuning: Tuning = Tuning()
    chosen_because: str = ""
    """Why this engine and precision, in words."""

    @property
    def identity(self) -> str:
        """Everything a pair's score depends on beside its texts; part of every cache key."""
        return "/".join(
            (
                *(self.kind, self.model, self.revision, self.fingerprint, self.engine, self.precision, self.kernels),
                *(str(self.max_length_tokens), self.score_scale, str(self.temperature), self.instruction or ""),
            )
        )


@dataclass(frozen=True, slots=True)
class ModelNames:
    """Names of the model that is served."""

    listed: tuple[str, ...]
    """Public names; replies say the first where the request names none."""
    unlisted: frozenset[str] = frozenset()
    """Paths on this machine: a caller may use them, but no reply shows them."""

    @property
    def first(self) -> str:
        """The name in replies to requests that name none."""
        return self.listed[0]

    def include(self, name: str) -> bool:
        """Return whether this is one of them; slashes around it don't count."""
        name = name.strip("/")
        return any(name == each.strip("/") for each in (*self.listed, *self.unlisted))


def names_of(model: ModelInfo, configured: str = "", others: Sequence[str] = ()) -> ModelNames:
    """Return the names of a model.

    Args:
        model: the model that serves.
        configured: the model that the operator asked for, an id or a path.
        others: more names from the operator, the best first.

    Returns:
        Only its own names while the model stands in for another: the others name that one.
    """
    own = (model.model, model.model.rpartition("/")[2])
    if model.substitute_for is not None:
        return ModelNames(tuple(dict.fromkeys(own)))
    paths = {configured}
    if (directory := Path(configured).expanduser()).is_dir():
        paths |= {str(directory.absolute()), str(directory.resolve())}
    return ModelNames(tuple(dict.fromkeys((*others, *own))), frozenset(paths - {""}))
