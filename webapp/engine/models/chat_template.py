"""The recipe that a model's own chat template is, where sentence-transformers' files say that it has one for pairs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers.utils.chat_template_utils import _compile_jinja_template

from webapp.domain.errors import SetupError, reason_of
from webapp.engine.recipes import DOCUMENT, INSTRUCTION, QUERY, Recipe, Score

_IN_PLACE_OF = {QUERY: "ZqueryZ", DOCUMENT: "ZdocumentZ", INSTRUCTION: "ZinstructionZ"}
"""Texts that no template holds, in the places of a pair's."""

ODD_ENDS = (
    *("a", "a b", "a.", "a?\n", "a \n\n ", "", "\n", "  ", "a\t", "é", "日本", "🐝", "1", "a>", "a_", "a'"),
    *(" a", ".a", "\na", "(a", ":a", "'s", "<a>", "1a"),
)
"""Texts whose ends and beginnings tokenizers may join with what stands beside them."""


CHANGED_BY_FILTERS = (
    *("  white space at both ends \n", "two\n\nparagraphs", "<br> & ' \" <b>", "UPPER Case", "{{ x }}", ""),
    "many words " * 500,
)
"""Texts that a template's filters (trim, escape, truncate, lower, ...) or conditions would change."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """A rendered template, cut into what is made tokens of by itself."""

    prefix: str
    query: str
    middle: str
    document: str
    suffix: str
    document_first: bool

    @property
    def frame(self) -> tuple[str, str, str]:
        return self.prefix, self.middle, self.suffix


def recipe_of(model: Any, score: Score) -> Recipe:
    """Return the recipe of a CrossEncoder of sentence-transformers that renders pairs by a chat template.

    The model's default prompt is its instruction: sentence-transformers makes a system message of it.

    Args:
        model: the CrossEncoder, loaded.
        score: how its score is made.

    Raises:
        SetupError: the template does more with a pair than to put it into its places.
    """
    default = (model.prompts.get(model.default_prompt_name) if model.default_prompt_name else "") or ""
    tokenizer = model.tokenizer
    plain = _parts(_render(model, _IN_PLACE_OF | {INSTRUCTION: ""}), tokenizer, "")
    rendered = _render(model, _IN_PLACE_OF)
    _refuse_clock(model)
    _refuse_filters(model)
    takes_one = rendered.count(_IN_PLACE_OF[INSTRUCTION]) == 1
    instructed = _parts(rendered, tokenizer, _IN_PLACE_OF[INSTRUCTION]) if takes_one else None
    if default and instructed is None:
        raise SetupError("its chat template has no place for its default prompt")
    if instructed and not default and instructed.frame != plain.frame:
        instructed = None  # a turn more: not of the query's words alone
    parts = instructed if instructed and default else plain
    return Recipe(
        title="its own chat template",
        licence="",
        names=[],
        marks=[],
        architectures=[type(model.transformers_model).__name__],
        max_length_tokens=131_072,
        instruction=default,
        prefix=[parts.prefix] * bool(parts.prefix),
        query=plain.query if plain.frame == parts.frame else "",
        instructed_query=instructed.query if instructed else "",
        middle=[parts.middle] * bool(parts.middle),
        document=parts.document,
        suffix=[parts.suffix] * bool(parts.suffix),
        document_first=parts.document_first,
        score=score,
    )


def _conversation(model: Any, of: Mapping[str, str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the messages that sentence-transformers makes of a pair, and the template's arguments."""
    transformer = model[0]
    texts = [("query", of[QUERY]), ("document", of[DOCUMENT])]
    if of[INSTRUCTION]:
        texts.insert(0, ("system", of[INSTRUCTION]))
    flat = transformer.input_formatter.message_format == "flat"
    messages = [{"role": role, "content": text if flat else [{"type": "text", "text": text}]} for role, text in texts]
    options = {
        name: value
        for name, value in transformer.processing_kwargs.get("chat_template", {}).items()
        if name in ("add_generation_prompt", "continue_final_message", "enable_thinking")
    }
    return messages, options


def _render(model: Any, of: Mapping[str, str]) -> str:
    """Return the text that sentence-transformers makes of a pair: of query, document and instruction (empty: none)."""
    messages, options = _conversation(model, of)
    try:
        return str(model[0].processor.apply_chat_template(messages, tokenize=False, **options))
    except Exception as error:  # jinja's, or a template's own
        raise SetupError(f"its chat template can't render a query and a document ({reason_of(error)})") from error


def _watched(text: str, seen: list[str]) -> str:
    """Return a text that notes what a template asks it, beside whether it is empty: its methods, parts and length."""

    class Watched(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __getattribute__(self, name: str) -> Any:
            if not name.startswith("_"):
                seen.append(name)
            return super().__getattribute__(name)

        def __str__(self) -> str:
            return self  # filters ask for it, and then for more

        def __bool__(self) -> bool:
            return str.__len__(self) > 0

        def __len__(self) -> int:
            seen.append("length")
            return super().__len__()

        def __getitem__(self, place: Any) -> str:
            seen.append("a part")
            return super().__getitem__(place)

        def __contains__(self, part: Any) -> bool:
            seen.append("in")
            return super().__contains__(part)

        def __eq__(self, other: object) -> bool:
            seen.append("equal")
            return super().__eq__(other)

    return Watched(text)


def _heeds(model: Any, of: Mapping[str, str], place: str, rendered: str) -> bool:
    """Return whether a template asks more of a text than whether it is empty, though it rendered this one as it is.

    It may cut the text at a length, or replace what this one does not hold. transformers gives a template copies of all
    texts, so that the template is rendered here without it.
    """
    seen: list[str] = []
    return _render_here(model, {**of, place: _watched(of[place], seen)}) != rendered or bool(seen)


def _render_here(model: Any, of: Mapping[str, str], **given: Any) -> str:
    """Return the text that transformers makes of a pair, without transformers; it may be given names of its own."""
    messages, options = _conversation(model, of)
    tokenizer = model.tokenizer
    names = {
        "tools": None,
        "documents": None,
        "add_generation_prompt": False,
        **tokenizer.special_tokens_map,
        **options,
        **given,
    }
    return str(_compile_jinja_template(tokenizer.get_chat_template()).render(messages=messages, **names))


def _refuse_clock(model: Any) -> None:
    """Refuse a template that prints the day: the words are read off it once, and would be others tomorrow."""
    for instruction in (_IN_PLACE_OF[INSTRUCTION], ""):
        texts = _IN_PLACE_OF | {INSTRUCTION: instruction}
        one, other = (_render_here(model, texts, strftime_now=lambda _, day=day: day) for day in ("1", "2"))
        if one != other:
            raise SetupError("its chat template prints the day, so its scores change from day to day")


def _refuse_filters(model: Any) -> None:
    """Refuse a template that changes a text, or that reads one: a recipe has no place for that."""
    for instruction in (_IN_PLACE_OF[INSTRUCTION], ""):
        named = _IN_PLACE_OF | {INSTRUCTION: instruction}
        whole = _render(model, named)
        for place, name in named.items():
            if name and _heeds(model, named, place, whole):
                raise SetupError(f"its chat template changes the text of {place}, or heeds what it says")
        for (place, name), text in itertools.product(named.items(), CHANGED_BY_FILTERS):
            if not name or (place == INSTRUCTION and not text.strip()):
                continue
            if _render(model, named | {place: text}) != whole.replace(name, text):
                raise SetupError(f"its chat template changes the text of {place}, or heeds what it says")


def _parts(rendered: str, tokenizer: Any, instruction: str) -> _Parts:
    """Cut a rendered template at special tokens, and where its tokenizer would anyway."""
    query, document = _IN_PLACE_OF[QUERY], _IN_PLACE_OF[DOCUMENT]
    if rendered.count(query) != 1 or rendered.count(document) != 1:
        raise SetupError("its chat template does not hold the query and the document once each")
    at_query, at_document = rendered.index(query), rendered.index(document)
    begins, ends = [at_query], [at_query + len(query)]
    if instruction:
        begins.append(rendered.index(instruction))
        ends.append(begins[-1] + len(instruction))
    if min(begins) < at_document < max(ends):
        raise SetupError("its chat template has the document between instruction and query")
    groups = sorted([(min(begins), max(ends)), (at_document, at_document + len(document))])
    (first_begin, first_end), (second_begin, second_end) = groups
    special = _special_places(rendered, tokenizer)

    head_end = max((end for _, end in special if end <= first_begin), default=0)
    tail_begin = min((begin for begin, _ in special if begin >= second_end), default=len(rendered))
    between = [place for place in special if first_end <= place[0] and place[1] <= second_begin]
    if between:
        middle_begin, middle_end = between[0][0], between[-1][1]
    else:
        middle_begin = middle_end = first_end + _cut(rendered[first_end:second_begin], tokenizer)
    first, second = rendered[head_end:middle_begin], rendered[middle_end:tail_begin]
    document_first = at_document < at_query
    as_query, as_document = (second, first) if document_first else (first, second)
    as_query = as_query.replace(query, QUERY)
    return _Parts(
        prefix=rendered[:head_end],
        query=as_query.replace(instruction, INSTRUCTION) if instruction else as_query,
        middle=rendered[middle_begin:middle_end],
        document=as_document.replace(document, DOCUMENT),
        suffix=rendered[tail_begin:],
        document_first=document_first,
    )


def _special_places(text: str, tokenizer: Any) -> list[tuple[int, int]]:
    """Return characters [begin, end) of the special tokens' names in a text, in order."""
    found = []
    for name in {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}:
        at = text.find(name)
        while at >= 0:
            found.append((at, at + len(name)))
            at = text.find(name, at + 1)
    return sorted(found)


def _cut(between: str, tokenizer: Any) -> int:
    """Return where a text can be cut so that no token is lost, whatever stands before and after it."""

    def tokens(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    def holds(at: int) -> bool:
        before, after = between[:at], between[at:]
        return all(
            tokens(left + before) + tokens(after + right) == tokens(left + between + right)
            for left, right in itertools.product(ODD_ENDS, repeat=2)
        )

    at_lines = [at + 1 for at, letter in enumerate(between) if letter == "\n"]
    places: list[int] = [*reversed(at_lines), *range(len(between) + 1)]
    for at in places:
        if holds(at):
            return at
    raise SetupError("its tokenizer joins what stands between query and document with either of them")
