"""Recipes: how a family of decoders makes a score of a query and a document. One TOML file each.

A new family: copy the file that is most like it, and add its formula to `models/formulas.py`. `docs/models.md` lists
them. A recipe says what the vendor's own code does; nothing of it is computed here.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from webapp.domain.errors import SetupError

DIRECTORY = Path(__file__).parent

QUERY, DOCUMENT, INSTRUCTION = "{query}", "{document}", "{instruction}"


class Score(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a score is made of the last layer's output.

    A model with one label has its own head, and needs none of the words.
    """

    yes: str = ""
    """Word whose logit is the score, minus that of `no`."""
    no: str = ""
    yes_id: Annotated[int, Meta(ge=0)] | None = None
    """Number of a token, in place of a word."""
    no_id: Annotated[int, Meta(ge=0)] | None = None
    temperature: Annotated[float, Meta(gt=0)] = 1.0
    """The score in 0..1 is the sigmoid of the logit over this."""
    pooling: Literal["last", "mean"] = "last"
    """Which tokens' outputs count: the last one's, or the mean of all."""
    attention: Literal["causal", "bidirectional"] = "causal"
    """Whether a token attends to those before it only, or to all."""


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A family: what marks it, its texts, its score.

    Texts come in this order: prefix, query, middle, document, suffix, or with document and query exchanged. Each text
    of a list, the query with its words and the document with its words are made tokens of by themselves. Only in
    prefix, middle and suffix are names of special tokens read as such.
    """

    name: str = ""
    title: str
    licence: str
    names: list[str]
    """Parts of names, in small letters, by which hub ids tell the family."""
    marks: list[str]
    """Texts of its chat template that no other family has."""
    architectures: Annotated[list[str], Meta(min_length=1)]
    max_length_tokens: Annotated[int, Meta(ge=16, le=131_072)]
    instruction: str = ""
    """The instruction where a request has none; empty: without one."""
    prefix: list[str] = []
    query: str = ""
    """The query with its words, where there is no instruction."""
    instructed_query: str = ""
    """The same with an instruction; empty: the family has no use for one."""
    middle: list[str] = []
    document: str
    suffix: list[str] = []
    document_first: bool = False
    special_tokens: bool = False
    """Whether the tokenizer's own special tokens go around it all."""
    strip: bool = False
    """Whether white space around query and document is taken off."""
    score: Score = Score()

    def __post_init__(self) -> None:
        """Check what the types don't.

        Raises:
            ValueError: a part of a text is missing.
        """
        if self.document.count(DOCUMENT) != 1:
            raise ValueError(f"`document` must hold {DOCUMENT} once")
        for name in ("query", "instructed_query"):
            text, parts = getattr(self, name), [QUERY] + [INSTRUCTION] * (name == "instructed_query")
            if text and any(text.count(part) != 1 for part in parts):
                raise ValueError(f"`{name}` must hold {' and '.join(parts)} once")
        if not (self.instructed_query if self.instruction else self.query):
            raise ValueError("`query` is missing, or `instructed_query` beside an `instruction`")
        by_word = bool(self.score.yes) or self.score.yes_id is not None
        if not by_word and any(name.endswith("ForCausalLM") for name in self.architectures):
            raise ValueError("`score` must hold `yes` or `yes_id`: a model for causal language has no other head")
        if by_word and self.score.pooling == "mean":
            raise ValueError(
                '`score` is of a word, so `pooling` must be "last": the word would come after the last token'
            )

    @property
    def takes_instructions(self) -> bool:
        """Whether a request's instruction has a place in the texts."""
        return bool(self.instructed_query)

    def of_query(self, query: str, instruction: str = "") -> str:
        """Return the query with its words.

        Args:
            query: the question.
            instruction: of the request; empty: the recipe's own.
        """
        instruction = (instruction or self.instruction) if self.instructed_query else ""
        before, _, after = (self.instructed_query if instruction else self.query).partition(QUERY)
        query = query.strip() if self.strip else query
        # Not all at once: a query may hold the name of the other place, and it stays as it is.
        return before.replace(INSTRUCTION, instruction) + query + after.replace(INSTRUCTION, instruction)

    def of_document(self, document: str) -> str:
        """Return the document with its words."""
        before, _, after = self.document.partition(DOCUMENT)
        return before + (document.strip() if self.strip else document) + after


def read_recipe(path: Path) -> Recipe:
    """Return the recipe in a file; its name is the file's.

    Raises:
        SetupError: the file can't be read, or is no recipe.
    """
    try:
        found = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Recipe)
    except OSError as error:
        raise SetupError(f"RERANK_RECIPE: {path} can't be read ({error.strerror})") from error
    except (ValueError, msgspec.ValidationError) as error:
        raise SetupError(f"RERANK_RECIPE: {path} is no recipe ({error})") from error
    return msgspec.structs.replace(found, name=path.stem)


@cache
def known_recipes() -> tuple[Recipe, ...]:
    """Return the recipes of this package, by name."""
    return tuple(read_recipe(path) for path in sorted(DIRECTORY.glob("*.toml")))


def named_recipe(name: str) -> Recipe:
    """Return the recipe that the setting `recipe` names: one of ours, or a file.

    Raises:
        SetupError: there is none.
    """
    for recipe in known_recipes():
        if recipe.name == name:
            return recipe
    if name.endswith(".toml"):
        return read_recipe(Path(name).expanduser())
    known = ", ".join(recipe.name for recipe in known_recipes())
    raise SetupError(f"RERANK_RECIPE: {name[:100]!r} is neither a file (.toml) nor one of: {known}")


def told_recipes(names: Sequence[str], chat_template: str) -> list[Recipe]:
    """Return the recipes that a model's names or its chat template tell."""
    lower = [name.lower() for name in names]
    return [
        recipe
        for recipe in known_recipes()
        if any(_is_part(part, name) for part in recipe.names for name in lower)
        or any(mark in chat_template for mark in recipe.marks)
    ]


def _is_part(part: str, name: str) -> bool:
    """Return whether a name has this part, and no letter or digit beside it: zerank-1 is no part of zerank-10."""
    return re.search(rf"(?<![a-z0-9]){re.escape(part)}(?![a-z0-9])", name) is not None
