"""Mistyped names: fields of a request, keys of a document. PURE."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from itertools import islice

import msgspec

MOST_EDITS = 2
"""Most edits between an unknown field and the known one that it is taken for."""

MOST_FIELDS = 20
"""Unknown fields of a call that are compared, a millisecond each at worst."""

MOST_KEYS = 1000
"""Keys of documents that are compared: a client that mistypes a name does so in each document."""

_TEXT, _CONTENT = frozenset({"text"}), frozenset({"content"})

LONGEST = 40
"""Characters of a name that is compared; no known name is longer."""


class IgnoredFields:
    """Warnings of unknown fields, in all the requests of one call."""

    def __init__(self) -> None:
        self._left = MOST_FIELDS

    def warn(self, names: Collection[str], body: type[msgspec.Struct]) -> tuple[str, ...]:
        """Return a warning for each field that is nearly a known one.

        Args:
            names: the fields that were sent.
            body: type with the fields that the format knows.
        """
        known = _fields_of(body)
        if known.issuperset(names):
            return ()
        return tuple(
            f"{name!r} was ignored: there is no such field; did you mean {meant!r}?"
            for name, meant in self.meant([name for name in names if name not in known], known)
        )

    def meant(self, unknown: Iterable[str], known: frozenset[str]) -> list[tuple[str, str]]:
        """Return the unknown names that are or resemble a known one, each with that one."""
        compared = list(islice((name for name in unknown if len(name) <= LONGEST), self._left))
        self._left -= len(compared)
        return [(name, meant) for name in compared if (meant := nearest(name, known, MOST_EDITS))]


def misnamed_key(documents: Iterable[object]) -> tuple[int, str, str] | None:
    """Return the first key that is nearly `text` or `content`: its document's index, the key, and the right name."""
    objects = ((place, each) for place, each in enumerate(documents) if isinstance(each, dict))
    keys = ((place, key) for place, each in objects for key in each if len(key) <= LONGEST)
    for place, key in islice(keys, MOST_KEYS):
        if meant := nearest(key, _TEXT, 1) or nearest(key, _CONTENT, MOST_EDITS):
            return place, key, meant
    return None


@functools.lru_cache(1024)
def nearest(name: str, known: frozenset[str], most: int) -> str | None:
    """Return the known name with the fewest edits to this one, at most `most`; case, `_` and `-` don't count."""
    name = name.casefold()
    alike = [each for each in known if abs(len(each) - len(name)) <= most]
    found = [(distance, each) for each in alike if (distance := edits(name, each)) <= most]
    if found:
        return min(found)[1]
    bare = name.replace("_", "").replace("-", "")  # maxTokensPerDoc
    return next((each for each in known if each.replace("_", "") == bare and "_" in each), None)


def edits(one: str, other: str) -> int:
    """Count the characters to insert, delete, replace or swap with a neighbour, to make one name of the other."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            least = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and b == one[i - 2]:
                least = min(least, before[j - 2] + 1)
            row.append(least)
        before, last = last, row
    return last[-1]


@functools.cache
def _fields_of(body: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(body))
