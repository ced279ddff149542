"""Server-sent events of `/progress/<id>`, line by line. PURE."""

from __future__ import annotations

import json

from reranking_client.results import Progress


class EventReader:
    """Lines in, states out. Comments, and what is no state, are passed over."""

    def __init__(self) -> None:
        self._data: list[str] = []

    def feed(self, line: str) -> Progress | None:
        """One line without its end; a state where the line completes one."""
        if line.startswith("data:"):
            self._data.append(line[5:].removeprefix(" "))
        elif not line and self._data:
            data, self._data = "\n".join(self._data), []
            return _state(data)
        return None


def _state(data: str) -> Progress | None:
    try:
        told = json.loads(data)
        return Progress(str(told["id"]), str(told["status"]), int(told.get("scored", 0)), int(told.get("pairs", 0)))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
