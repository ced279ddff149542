"""The table of what was seen, and its place in a document."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nemesis.row import Row

BEGIN = "<!-- nemesis: what follows is written by scripts/nemesis --table -->"
END = "<!-- /nemesis -->"

HEAD = ("fault", "times", "requests", "refused", "cut", "lost", "wrong", "longest wait [s]", "whole again", "before")


def table(rows: Iterable[Row]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [HEAD, ["---"] + ["--:"] * 7 + ["---"] * 2, *map(_cells, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(row: Row) -> list[str]:
    figures = (row.times, row.requests, row.refused, row.cut, row.lost, row.wrong)
    whole = f"no: {row.broken}" if row.broken else "yes"
    state = f"{whole} ({row.note})" if row.note else whole
    return [row.fault, *map(str, figures), f"{row.longest_s:.1f}", state.replace("|", "/"), row.before]


def write_into(path: Path, text: str) -> None:
    """Replace what stands between the two marks in a document.

    Raises:
        ValueError: it lacks a mark.
    """
    document = path.read_text()
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} needs the lines {BEGIN} and {END}")
    path.write_text(f"{before}{begin}\n\n{text}\n{end}{after}")
