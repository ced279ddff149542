"""Texts that a model is checked with, and how its original scores them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from webapp.domain.types import Session
from webapp.engine.models.source import ROWS_A_BATCH, SourceModel
from webapp.engine.prepare.progress import ReportShare

LONGEST_SCORED_TOKENS = 2048
"""Longer texts are scored by nobody here: of what is past this, up to the model's limit, only the tokens are compared.

In float32 one pair of 8,192 tokens costs a model of 0.6 billion weights as much as all other pairs together.
"""

INSTRUCTION = "Given a question about animals, find the text that answers it"
"""What a model that takes an instruction is checked with, too; and golden pairs, where it has no default."""

Step = Callable[[Sequence[tuple[str, str]]], None]
"""Takes pairs that were scored."""

QUERIES = (
    "how do bees find their way back to the hive",
    "Wie lange darf Milch offen im Kühlschrank stehen?",
    "最も近い駅はどこですか",
)
DOCUMENTS = (
    "Bees remember landmarks and the angle of the sun.",
    "Offene Milch hält sich gekühlt etwa drei Tage; riecht sie sauer, gehört sie weggegossen.",
    "駅は郵便局の角を曲がってすぐです。歩いて五分ほどかかります。",
    "A hive's scouts dance: the straight run points to the flowers, its length tells how far they are.",
    "",
    "   \t\n ",
    "🐝🍯 naïve café — ﬁne print №5 \u202eabc\u202c",
    "x" * 300,
    "The invoice was paid on the fourth of May. " * 12,
    "القطار الأخير يغادر المحطة عند منتصف الليل تمامًا.",
    "0.5 mg/l < c(NO3-) <= 50 mg/l; see table 4.2(b), p. 117",
)
NAMES_OF_SPECIAL_TOKENS = "bees [SEP] find </s> their <pad> way [PAD] home <s> by [CLS] the <unk> sun [MASK]"
MOST_NAMES = 20
"""Names of the tokenizer's own special tokens in one text: read as these tokens, or as text, as the original does."""

_LONG_QUERY = "which of these words matters "
_LONG_DOCUMENT = "Dit document gaat nergens over, maar het is wel lang. "

LONG_QUERY_TOKENS = 512


def check_pairs(original: SourceModel) -> list[tuple[str, str]]:
    """Return pairs of short, long, blank and odd texts, and of texts that are cut where the model's limit is not far.

    A decoder gets no query that is cut: its vendor cuts the document off whole, or the words after it. We don't.
    """
    pairs = [(query, document) for query in QUERIES for document in DOCUMENTS]
    scored = min(original.max_length_tokens, LONGEST_SCORED_TOKENS)
    pairs.append((QUERIES[0], _past(original, _LONG_DOCUMENT, scored)))
    pairs.append((f"  {QUERIES[0]} \n", f" \n{DOCUMENTS[0]}\t "))
    if original.recipe is not None:
        return pairs
    pairs.append((QUERIES[0], NAMES_OF_SPECIAL_TOKENS))
    pairs.append(
        (QUERIES[0], f"bees {' find '.join(map(str, original.tokenizer.all_special_tokens[:MOST_NAMES]))} way")
    )
    query, document = (_past(original, text, min(scored, LONG_QUERY_TOKENS)) for text in (_LONG_QUERY, _LONG_DOCUMENT))
    return [*pairs, (query, DOCUMENTS[0]), (query, document)]


def cut_pairs(original: SourceModel) -> list[tuple[str, str]]:
    """Return pairs that the original cuts at its limit, however long that is: the document, the query, or both."""
    document = _past(original, _LONG_DOCUMENT, original.max_length_tokens)
    pairs = [(QUERIES[0], document)]
    if original.recipe is not None:
        return pairs
    query = _past(original, _LONG_QUERY, original.max_length_tokens)
    return [*pairs, (query, DOCUMENTS[0]), (query, document)]


def _past(original: SourceModel, text: str, tokens: int) -> str:
    """Return a text repeated until it has more tokens than this."""
    once = len(original.tokenizer(text, add_special_tokens=False)["input_ids"])
    return text * (tokens // max(1, once - 1) + 2)  # pieces may join where it is repeated


def cuts_the_question(session: Session, original: SourceModel, pair: tuple[str, str]) -> bool:
    """Return whether the original cuts off the end of a query that comes after a long document; we cut the document."""
    if original.recipe is None or not original.recipe.document_first:
        return False
    _, _, truncated = session.encode_documents(session.encode_query(pair[0]), [pair[1]])
    return bool(truncated[0])


def reference(
    original: SourceModel,
    pairs: Sequence[tuple[str, str]],
    step: Step = lambda _pairs: None,
    instruction: str = "",
) -> NDArray[np.float32]:
    """Return the original's scores, computed once a pair, with pairs of similar length at once; shape [pairs]."""
    by_length = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))
    for at in range(0, len(pairs), ROWS_A_BATCH):
        some = by_length[at : at + ROWS_A_BATCH]
        original.reference(some, instruction)
        step(some)
    return original.reference(pairs, instruction)


class Progress:
    """The share of a stage that is done, in characters of the pairs that were scored."""

    def __init__(self, pairs: Sequence[tuple[str, str]], times: int, report_share: ReportShare) -> None:
        self._total = times * chars_of(pairs)
        self._done = 0
        self._report_share = report_share

    def step(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Count pairs that were scored once."""
        self._done += chars_of(pairs)
        self._report_share(self._done / self._total)


def chars_of(pairs: Sequence[tuple[str, str]]) -> int:
    """Return the characters of pairs, and one more for each."""
    return sum(1 + len(query) + len(document) for query, document in pairs)
