"""How far a model's embedding tables reach, and whether its tokenizer stays inside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from webapp.domain.errors import SetupError
from webapp.engine.template import Template

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Tables(msgspec.Struct, frozen=True):
    """Rows of the tables that ids, positions and types of tokens are looked up in; None: there is no such table."""

    vocabulary: int | None
    positions: int | None
    types: int | None


def check_tables(tables: Tables, template: Template, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that gives what its model has no row for.

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
