"""How a model's tokenizer frames a pair."""

from __future__ import annotations

import msgspec


class Template(msgspec.Struct, frozen=True):
    """How a tokenizer frames its input: `prefix query middle document suffix`, or without query and middle.

    Read off the tokenizer once (see `prepare.export`), so that query and documents can be encoded apart from each
    other and the query only once a request.
    """

    prefix: list[int]
    middle: list[int]
    suffix: list[int]
    document_type: int
    """Token type of the document and the suffix; the query's is 0."""
    pad_id: int
    max_length_tokens: int

    @property
    def room_tokens(self) -> int:
        """Tokens left for texts."""
        return self.max_length_tokens - len(self.prefix) - len(self.middle) - len(self.suffix)
