"""Texts to token ids, without transformers: from a tokenizer's own file and the template that `prepare` read off it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from webapp.domain.errors import SetupError
from webapp.domain.types import Kept, Token
from webapp.engine.artifact import Tables, Template, damaged
from webapp.engine.base import CUT_SLACK_TOKENS, MOST_CHARS, first_chars, part_of, read_enough

UNPOOLED = 2
"""Attention mask of a token that others attend to, but that does not count in a vector; 1 is an ordinary token's."""

PIECE_TOKENS = 10_000
"""A list of all tokens of a long text would be made under the interpreter's lock, for seconds."""

TokenIds: TypeAlias = Sequence[int] | NDArray[np.int32]


def split_room(query: int, document: int, room: int) -> tuple[int, int]:
    """Return how many tokens of query and document are kept, as Hugging Face's `longest_first` truncation has it.

    The longer text is cut first, so a query keeps at least half of the room.

    Args:
        query: length in tokens.
        document: length in tokens.
        room: tokens that both may take together.
    """
    shorter, longer = sorted((query, document))
    shorter = min(shorter, room // 2)
    longer = min(longer, room - shorter)
    return (shorter, longer) if query <= document else (longer, shorter)


def batch_rows(
    rows: Sequence[Sequence[TokenIds]], template: Template, length: int, unpooled: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return token ids and attention mask of a batch, both of shape [rows, length].

    Args:
        rows: the parts of each row, put one after the other.
        template: the model's limit and its padding.
        length: tokens to pad each row to.
        unpooled: so many tokens of each row, the first ones, count in no vector.
    """
    # There are no positions past the model's limit; a tokenizer that adds nothing makes no token of an empty text.
    input_ids = np.full((len(rows), max(1, min(length, template.max_length_tokens))), template.pad_id, np.int64)
    mask = np.zeros_like(input_ids)
    for row, parts in enumerate(rows):
        at = 0
        for part in parts:
            input_ids[row, at : at + len(part)] = part
            at += len(part)
        mask[row, :at] = 1
        mask[row, : min(unpooled, at)] = UNPOOLED
    return input_ids, mask


class TextEncoder:
    """The tokenizer of an engine; see `webapp.engine.base.Texts`. Safe to share between threads."""

    def __init__(
        self, path: Path, template: Template, *, query_takes_room: bool, prompts: tuple[str, str] = ("", "")
    ) -> None:
        """Read a tokenizer.

        Args:
            path: its tokenizer.json.
            template: how it frames its input.
            query_takes_room: whether query and document share the model's length.
            prompts: put before each query and before each document.

        Raises:
            SetupError: the file is damaged.
        """
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no other class
            raise damaged(path, error) from error
        self.tokenizer.encode_special_tokens = template.names_are_text
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()  # it reads a text to its end anyway, and so it can count, too
        self.special_tokens = template.special_tokens
        self.query_takes_room = query_takes_room
        self._room_tokens = template.room_tokens
        self.keeps: Kept = "end" if template.truncation_side == "left" else "start"
        self._truncation_side = template.truncation_side
        self._query_prompt, self._document_prompt = prompts

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return the token ids of each text, without special tokens, at most room + 1 of them: one more tells of a cut.

        Of a long text a part is read; see `read_enough`.
        """
        room, chars = self._room_tokens, first_chars(self._room_tokens)
        ids = self._encode([part_of(text, chars, self.keeps) for text in texts])
        for index, text in enumerate(texts):
            if len(text) > chars and len(ids[index]) <= room + CUT_SLACK_TOKENS:
                _, ids[index] = read_enough(text, room, self.keeps, lambda part: self._encode([part])[0], 2 * chars)
        return [self.kept(each, room + 1) for each in ids]

    def _encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for encoding in encodings:  # before Python sees them: a list of a million numbers would hold the hub
            encoding.truncate(self._room_tokens + CUT_SLACK_TOKENS + 1, direction=self._truncation_side)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def kept(self, ids: NDArray[np.int32], count: int) -> NDArray[np.int32]:
        """Return so many of a text's tokens, those that are kept when it is cut."""
        return ids[max(0, len(ids) - count) :] if self._truncation_side == "left" else ids[:count]

    def has_unread_rest(self, text: str) -> bool:
        """Return whether a text goes on past the `MOST_CHARS` that are read."""
        rest = text[:-MOST_CHARS] if self._truncation_side == "left" else text[MOST_CHARS:]
        return bool(rest) and not rest.isspace()

    def count(self, text: str) -> int:
        """Return how many tokens the first `MOST_CHARS` of a text have."""
        return len(self.tokenizer.encode_batch_fast([text[:MOST_CHARS]], add_special_tokens=False)[0])

    def query_tokens(self, query: str, instruction: str = "") -> int:
        """Return how many tokens the first `MOST_CHARS` of a query have, with its prompt."""
        del instruction  # it has no place
        prompted = self._query_prompt + query[:MOST_CHARS]
        return len(self.tokenizer.encode_batch_fast([prompted], add_special_tokens=False)[0])

    def document_tokens(self, document: str) -> int:
        """Return how many tokens the first `MOST_CHARS` of a document have, with its prompt."""
        prompted = self._document_prompt + document[:MOST_CHARS]
        return len(self.tokenizer.encode_batch_fast([prompted], add_special_tokens=False)[0])

    def split_room(self, query: int, document: int, room: int) -> tuple[int, int]:
        """Return how many tokens are kept; see `split_room` of this module."""
        return split_room(query, document, room)

    def offsets(self, text: str) -> NDArray[np.int32]:
        """Return characters [start, stop) of each token in the first `MOST_CHARS` of a text, shape [tokens, 2]."""
        return _offsets(self.tokenizer.encode_batch([text[:MOST_CHARS]], add_special_tokens=False)[0])

    def tokenize(self, text: str, *, special: bool) -> Iterator[Token]:
        """Yield every token of a text; a special token has no offsets, and its text is its name."""
        encoding = self.tokenizer.encode_batch([text], add_special_tokens=special)[0]
        name_of = self.tokenizer.id_to_token
        for number, added, place in zip(encoding.ids, encoding.special_tokens_mask, _offsets(encoding), strict=True):
            if added:
                yield Token(number, name_of(number) or "", True, None, None)
            else:
                start, stop = place.tolist()
                yield Token(number, text[start:stop], False, start, stop)


def _offsets(encoding: Encoding) -> NDArray[np.int32]:
    """Return characters [start, stop) of each token, shape [tokens, 2]; [0, 0] if it has none."""
    if len(encoding) <= PIECE_TOKENS:
        return np.array(encoding.offsets, np.int32).reshape(-1, 2)
    places = np.empty((len(encoding), 2), np.int32)
    for start in range(0, len(encoding), PIECE_TOKENS):
        piece = range(start, min(start + PIECE_TOKENS, len(encoding)))
        places[start : start + PIECE_TOKENS] = [encoding.token_to_chars(token) or (0, 0) for token in piece]
    return places


def check_tables(tables: Tables, template: Template, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that gives tokens which its model has no row for.

    Runtimes differ in what they make of such a token: zeros, an error, a GPU that is lost to the process. A table that
    is longer than the vocabulary is sound.

    Args:
        tables: the model's.
        template: how texts are framed.
        tokenizer: the whole of its vocabulary counts: a text may hold the name of any special token.

    Raises:
        SetupError: it gives one.
    """
    framed = [*template.prefix, *template.middle, *template.suffix, template.pad_id]
    words = max(*tokenizer.get_vocab(with_added_tokens=True).values(), *framed) + 1
    wrong = ""
    if min(framed) < 0:
        wrong = "the tokenizer frames its input with a negative token id"
    elif tables.vocabulary is not None and words > tables.vocabulary:
        wrong = f"the tokenizer knows {words:,} words, the model's table has {tables.vocabulary:,}"
    elif tables.positions is not None and template.max_length_tokens > tables.positions:
        wrong = f"texts are cut at {template.max_length_tokens:,} tokens, the model has {tables.positions:,} positions"
    elif tables.types is not None and not 0 <= template.document_type < tables.types:
        wrong = f"the tokenizer gives a document token type {template.document_type}, the model has {tables.types}"
    elif template.room_tokens < 1:
        wrong = f"{template.max_length_tokens:,} tokens leave no room for texts beside the special tokens"
    if wrong:
        raise SetupError(f"{wrong}; name another RERANK_MODEL")
