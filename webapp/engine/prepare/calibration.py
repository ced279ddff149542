"""Texts to calibrate a quantized model with, and others to judge it by. No pair is in both."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import msgspec

from webapp.domain.errors import SetupError

DEFAULT_FILE = Path(__file__).with_name("calibration.jsonl")

CALIBRATION_PAIRS = 240
JUDGED_DOCUMENTS_A_QUERY = 20


class Example(msgspec.Struct, frozen=True):
    """One line of a calibration file."""

    query: str
    documents: list[str]


@dataclass(frozen=True, slots=True)
class Examples:
    """The two halves of a calibration file."""

    calibration: list[tuple[str, str]]
    """Pairs of ordinary lengths, to measure speed with, too."""
    judged: list[tuple[str, list[str]]]
    """Queries with the documents to be ranked for each."""


def read_examples(path: Path) -> Examples:
    """Return a JSONL file of {"query", "documents"}, split by query: one query of three is kept for judging.

    Texts are mixed and joined to lengths from a few words to past any model's limit, as real documents have them.

    Raises:
        SetupError: the file can't be read, or holds too little.
    """
    try:
        lines = [line for line in path.read_bytes().splitlines() if line.strip()]
        examples = [msgspec.json.decode(line, type=Example) for line in lines]
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SetupError(
            f"--calibration-data: {path}: {error}; a line is {{'query': str, 'documents': [str]}}"
        ) from error
    judged, rest = examples[::3], [example for place, example in enumerate(examples) if place % 3]
    if not rest or not any(example.documents for example in rest) or not any(example.documents for example in judged):
        raise SetupError(f"--calibration-data: {path} holds too little; it takes at least three queries with documents")
    rng = random.Random(0)  # noqa: S311 - the same artifact every time
    return Examples(
        calibration=[(rng.choice(rest).query, document) for document in _of_all_lengths(rest, CALIBRATION_PAIRS, rng)],
        judged=[
            (example.query, [*example.documents, *_of_all_lengths(judged, JUDGED_DOCUMENTS_A_QUERY, rng)])
            for example in judged
        ],
    )


def _of_all_lengths(examples: list[Example], count: int, rng: random.Random) -> list[str]:
    pool = [document for example in examples for document in example.documents]
    return [" ".join(rng.choices(pool, k=rng.choice((1, 1, 1, 2, 3, 6)))) for _ in range(count)]
