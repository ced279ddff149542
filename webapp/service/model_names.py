"""Names of the model that is served: which a caller may use, and which a reply says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from webapp.domain.types import ModelInfo


@dataclass(frozen=True, slots=True)
class ModelNames:
    """What a model is called."""

    listed: tuple[str, ...]
    """For everybody to read; the first is said where a caller used none."""
    unlisted: frozenset[str] = frozenset()
    """Paths on this machine: a caller may use them, but hears them from nobody."""

    @property
    def first(self) -> str:
        """The name that replies say by themselves."""
        return self.listed[0]

    def include(self, name: str) -> bool:
        """Whether this is one of them; slashes around it don't count."""
        name = name.strip("/")
        return any(name == each.strip("/") for each in (*self.listed, *self.unlisted))


def names_of(model: ModelInfo, configured: str = "", others: Sequence[str] = ()) -> ModelNames:
    """The names of a model.

    Args:
        model: what serves.
        configured: the model that the operator asked for, an id or a path.
        others: what the operator calls it besides, the best first.

    Returns:
        Only those of the model that serves while it stands in for another: none of the others is its name.
    """
    own = (model.model, model.model.rpartition("/")[2])
    if model.substitute_for is not None:
        return ModelNames(tuple(dict.fromkeys(own)))
    paths = {configured}
    if (directory := Path(configured).expanduser()).is_dir():
        paths |= {str(directory.absolute()), str(directory.resolve())}
    return ModelNames(tuple(dict.fromkeys((*others, *own))), frozenset(paths - {""}))
