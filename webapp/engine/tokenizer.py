"""Texts to token ids, without transformers: the fast tokenizer's own file and a template taken from it in prepare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from webapp.engine.artifact import damaged
from webapp.engine.base import MOST_CHARS

CHARS_PER_TOKEN_BOUND = 16
"""Documents are cut to this many characters a token before they are tokenised; see `encode`."""

CUT_SLACK_TOKENS = 32


def split_room(query: int, document: int, room: int) -> tuple[int, int]:
    """Tokens of a pair that are kept, as `longest_first` truncation of Hugging Face's tokenizers has it.

    The longer text is cut first, so a query keeps at least half of the room.

    Args:
        query: length in tokens.
        document: length in tokens.
        room: tokens that both may take together.
    """
    if query + document <= room:
        return query, document
    shorter, longer = sorted((query, document))
    if shorter > room // 2:
        shorter, longer = room // 2, room - room // 2
    else:
        longer = room - shorter
    return (shorter, longer) if query <= document else (longer, shorter)


class TextEncoder:
    """Encodes texts without special tokens, cut at `room_tokens`. Safe to share between threads."""

    def __init__(self, path: Path, room_tokens: int) -> None:
        try:
            self.whole = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no other class
            raise damaged(path, error) from error
        self.whole.no_padding()
        self.whole.no_truncation()  # it reads a text to its end anyway, and so it can count, too
        self._room_tokens = room_tokens

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Token ids of each text, at most room + 1 of them.

        A tokenizer reads a text to its end whatever is kept, a second for some megabytes. So a long text is
        first tried by its beginning, which is enough unless it holds unusually few tokens (thousands of spaces).
        """
        bound = (self._room_tokens + CUT_SLACK_TOKENS) * CHARS_PER_TOKEN_BOUND
        cut = [text if len(text) <= bound else text[:bound] for text in texts]
        ids = self._encode(cut)
        for index, text in enumerate(texts):
            if len(text) > bound and len(ids[index]) <= self._room_tokens:
                (ids[index],) = self._encode([text[:MOST_CHARS]])
        return ids

    def _encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        encodings = self.whole.encode_batch_fast(texts, add_special_tokens=False)
        for encoding in encodings:  # before Python sees them: a list of a million numbers would hold the hub
            encoding.truncate(self._room_tokens + 1)  # one more tells a cut text from one that just fits
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    @staticmethod
    def leaves_some(text: str) -> bool:
        """Whether there is more of a text than is ever read of one."""
        return len(text) > MOST_CHARS and not text[MOST_CHARS:].isspace()

    def count(self, text: str) -> int:
        """Tokens of the whole text, or of the most that is read of it."""
        return len(self.whole.encode_batch_fast([text[:MOST_CHARS]], add_special_tokens=False)[0])
