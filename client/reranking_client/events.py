"""Parser of the server-sent events of `/progress/<id>`. PURE."""

from __future__ import annotations

import json

from reranking_client.results import Progress


class EventReader:
    """Parser that takes lines and returns states. It skips comments and events that are not a state."""

    def __init__(self) -> None:
        self._data: list[str] = []

    def feed(self, line: str) -> Progress | None:
        """Take one line without its line end. Return the state that it completes, or None."""
        if line.startswith("data:"):
            self._data.append(line[5:].removeprefix(" "))
        elif not line and self._data:
            data, self._data = "\n".join(self._data), []
            return _state(data)
        return None


def _state(data: str) -> Progress | None:
    try:
        value = json.loads(data)
        return Progress(str(value["id"]), str(value["status"]), int(value.get("scored", 0)), int(value.get("pairs", 0)))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
