"""What the sections of gpu.py have in common: options, and how they tell results to the process that shows them."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK = "@gpu "
"""Begins a line that is a result."""

PACKAGES = ("torch", "transformers", "sentence_transformers", "msgspec", "pydantic", "tokenizers", "sortedcontainers")
"""What the engine and the scheduler need."""


class SkippedError(Exception):
    """A section can't run here, for the reason given."""


@dataclass(frozen=True)
class Options:
    """How all sections run."""

    device: str
    precision: str
    """Precision of the engine; on a CPU always fp32."""
    out: Path
    tiny: bool

    def pick(self, full: Any, tiny: Any) -> Any:
        """Return one of two sizes."""
        return tiny if self.tiny else full


def say(kind: str, **values: Any) -> None:
    """Report a result; `ok` says whether it is within its limit, where it has one."""
    print(MARK + json.dumps({"kind": kind, **values}), flush=True)


def require(*packages: str) -> None:
    """Skip the section where one of these packages is missing.

    Raises:
        SkippedError: it is.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise SkippedError(f"it needs the packages {', '.join(missing)}, which are not installed")
