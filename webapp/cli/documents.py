"""Read documents from a file: lines, JSON, JSON lines or CSV, by its name or its first character."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import click

TEXT_FIELDS = ("content", "text", "document", "body")
"""Fields, or columns, of a document's text; the first that is there counts."""


def read_documents(name: str, content: bytes) -> list[str]:
    """Return the documents' texts.

    Args:
        name: the file's name; its ending counts.
        content: the file's bytes.

    Raises:
        click.ClickException: it holds something else; the message says where.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{name} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    read = _BY_ENDING.get(PurePath(name).suffix.lower()) or _BY_START.get(text.lstrip()[:1], _lines)
    documents = read(name, text)
    if not documents:
        raise click.ClickException(f"{name} holds no documents")
    return documents


def _lines(_name: str, text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _json(name: str, text: str) -> list[str]:
    value = _loaded(name, text)
    if isinstance(value, dict) and "documents" in value:
        value = value["documents"]
    if not isinstance(value, list):
        raise click.ClickException(f"{name} should hold a JSON list of documents")
    return [_text(name, f"entry {place}", each) for place, each in enumerate(value, 1)]


def _json_lines(name: str, text: str) -> list[str]:
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    return [_text(name, f"line {number}", _loaded(f"{name}, line {number},", line)) for number, line in lines]


def _loaded(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.ClickException(f"{where} is not valid JSON: {error}") from None


def _csv(name: str, text: str) -> list[str]:
    rows = csv.DictReader(io.StringIO(text))
    columns = rows.fieldnames or []
    column = next((each for each in TEXT_FIELDS if each in columns), columns[0] if len(columns) == 1 else None)
    if column is None:
        raise click.ClickException(f"{name} has no column named {' or '.join(TEXT_FIELDS)}")
    return [row[column] or "" for row in rows]


def _text(name: str, place: str, value: Any) -> str:
    if isinstance(value, dict):
        value = next((value[each] for each in TEXT_FIELDS if each in value), None)
    if not isinstance(value, str):
        raise click.ClickException(f"{name}, {place}: neither a text nor an object with {' or '.join(TEXT_FIELDS)}")
    return value


_BY_START: dict[str, Callable[[str, str], list[str]]] = {"[": _json, "{": _json_lines}

_BY_ENDING: dict[str, Callable[[str, str], list[str]]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _csv,
    ".txt": _lines,
}
