"""Golden pairs: texts with the original model's scores, kept in the artifact, asked again before a release serves."""

from __future__ import annotations

from pathlib import Path

import msgspec

from webapp.domain.errors import SetupError
from webapp.engine.artifact import GOLDEN


class GoldenQuery(msgspec.Struct, frozen=True):
    """One query."""

    query: str
    documents: list[str]
    scores: list[float]
    """Scores of sentence-transformers, in the documents' order."""


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """All of an artifact."""

    raw: bool
    """Whether scores are the model's own numbers; else they are 0..1."""
    tolerance: float
    """Largest difference of a served score: what `prepare` measured, and a little for other batches."""
    queries: list[GoldenQuery]


def read_golden(directory: Path) -> Golden:
    """The golden pairs of an artifact.

    Raises:
        SetupError: they are not there, or damaged.
    """
    try:
        return msgspec.json.decode((directory / GOLDEN).read_bytes(), type=Golden)
    except (OSError, ValueError) as error:
        raise SetupError(
            f"{directory / GOLDEN} can't be read ({error}); remove {directory} and prepare again"
        ) from error
