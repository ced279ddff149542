"""Exceptions as a log may tell them: what and where, in none of their own words. PURE.

A tokenizer, a parser or a codec quotes what it was given, and that may be a document. So words are told only of
exceptions that speak of the system or of code.
"""

from __future__ import annotations

import os
import traceback
from pathlib import Path

MOST_FRAMES = 12
"""Of one exception; the innermost are kept."""

MOST_CAUSES = 5

_ROOT = str(Path(__file__).resolve().parent.parent.parent) + "/"


def tell(error: BaseException, *, words: bool = False) -> str:
    """An exception and its causes, each with the places it passed, the innermost last.

    Args:
        error: what was raised.
        words: tell its own words, too; only where no request has been near.
    """
    told: list[str] = []
    each: BaseException | None = error
    seen: set[int] = set()
    while each is not None and id(each) not in seen and len(seen) < MOST_CAUSES:
        seen.add(id(each))
        title = _title(each, words=words)
        told.append(f"caused by {title}" if told else title)
        frames = traceback.extract_tb(each.__traceback__)[-MOST_FRAMES:]
        told.extend(f"  {_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames)
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return "\n".join(told)


def _title(error: BaseException, *, words: bool) -> str:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if words or isinstance(error, (ImportError, SyntaxError)):
        return f"{name}: {error}"
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return f"{name}: {os.strerror(error.errno)}"
    return name


def _short(path: str) -> str:
    """Without the folders of this machine."""
    _, found, inside = path.rpartition("/site-packages/")
    return inside if found else path.removeprefix(_ROOT)
