"""A fast tokenizer's view of whole texts; see `webapp.engine.base.Texts`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from webapp.domain.types import Token
from webapp.engine.base import MOST_CHARS

PIECE_TOKENS = 10_000
"""A list of all the tokens of a long text would be made under the interpreter's lock, for seconds."""


class TextTools:
    """Tokens with their places. Safe to share between threads."""

    def __init__(
        self, tokenizer: Tokenizer, *, special_tokens: int, query_takes_room: bool, query_prompt: str = ""
    ) -> None:
        """The tokenizer neither pads nor truncates; the prompt stands before each query."""
        self.tokenizer = tokenizer
        self.special_tokens = special_tokens
        self.query_takes_room = query_takes_room
        self._query_prompt = query_prompt

    def query_tokens(self, query: str) -> int:
        """Tokens of a query, or of the most that is read of it, with its prompt."""
        read = self._query_prompt + query[:MOST_CHARS]
        return len(self.tokenizer.encode_batch_fast([read], add_special_tokens=False)[0])

    def offsets(self, text: str) -> NDArray[np.int32]:
        """Characters [start, stop) of each token of a text, or of the most that is read of it; shape [tokens, 2]."""
        return _places(self.tokenizer.encode_batch([text[:MOST_CHARS]], add_special_tokens=False)[0])

    def tokenize(self, text: str, *, special: bool) -> Iterator[Token]:
        """Yield every token; a special one has no place, and its text is its name."""
        encoding = self.tokenizer.encode_batch([text], add_special_tokens=special)[0]
        name_of = self.tokenizer.id_to_token
        for number, added, place in zip(encoding.ids, encoding.special_tokens_mask, _places(encoding), strict=True):
            if added:
                yield Token(number, name_of(number) or "", True, None, None)
            else:
                start, stop = place.tolist()
                yield Token(number, text[start:stop], False, start, stop)


def _places(encoding: Encoding) -> NDArray[np.int32]:
    """Return characters [start, stop) of each token, shape [tokens, 2]; [0, 0] where it has none."""
    if len(encoding) <= PIECE_TOKENS:
        return np.array(encoding.offsets, np.int32).reshape(-1, 2)
    places = np.empty((len(encoding), 2), np.int32)
    for start in range(0, len(encoding), PIECE_TOKENS):
        piece = range(start, min(start + PIECE_TOKENS, len(encoding)))
        places[start : start + PIECE_TOKENS] = [encoding.token_to_chars(token) or (0, 0) for token in piece]
    return places
