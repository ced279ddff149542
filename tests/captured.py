"""Requests that real clients sent, and what they need of a reply."""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "captured-requests"

SHAPES = (
    {"ensure_ascii": True},
    {"ensure_ascii": True, "separators": (",", ":")},
    {"ensure_ascii": False},
    {"ensure_ascii": False, "separators": (",", ":")},
)

OURS_TO_SET = {"host", "content-length", "connection"}

STRING_DOCUMENTS = {"litellm-1.106.2-infinity", "infinity-client-0.0.78-doc"}
"""These want `results[].document` as a string."""

PREFIX = {"litellm-1.106.2-infinity": "/infinity"}
"""Where a user points a client whose requests can't be told from another's; see docs/clients.md."""


def load():
    """(name, request, needs) of every captured request that ranks; none where they are not."""
    found = []
    for file in sorted(FOLDER.glob("*.json")):
        record = json.loads(file.read_text())
        for number, request in enumerate(record["requests"]):
            name = file.stem if number == 0 else f"{file.stem}-{number}"
            found.append((name, request, record["minimal_reply_accepted"]))
    return found


def raw_body(request) -> bytes:
    """The body byte for byte: capture kept it parsed, its length says how it was written."""
    if request.get("body") is None:
        return b""
    shapes = [json.dumps(request["body"], **shape).encode() for shape in SHAPES]
    length = next((int(value) for name, value in request["headers"].items() if name.lower() == "content-length"), None)
    return next((shape for shape in shapes if len(shape) == length), shapes[1])


def headers(request) -> dict[str, str]:
    return {name: value for name, value in request["headers"].items() if name.lower() not in OURS_TO_SET}


def missing(needs, reply, place="$"):
    """What a client needs and the reply lacks; types count, values do not."""
    if isinstance(needs, dict):
        if not isinstance(reply, dict):
            return [f"{place} is no object"]
        return [
            line
            for name, value in needs.items()
            for line in (
                [f"{place}.{name} is missing"] if name not in reply else missing(value, reply[name], f"{place}.{name}")
            )
        ]
    if isinstance(needs, list):
        if not isinstance(reply, list) or (needs and not reply):
            return [f"{place} is no list, or empty"]
        return [line for number, entry in enumerate(reply) for line in missing(needs[0], entry, f"{place}[{number}]")]
    if isinstance(needs, int | float) and not isinstance(needs, bool):
        return [] if isinstance(reply, int | float) else [f"{place} is no number"]
    return [] if isinstance(reply, type(needs)) else [f"{place} is {type(reply).__name__}, not {type(needs).__name__}"]


def documents_of(body):
    return body.get("documents") or body.get("texts") or body.get("passages") or body.get("input")
