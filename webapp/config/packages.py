"""Versions of installed packages, read without importing them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version


def version_of(name: str) -> str:
    """Return the version of a distribution; empty: it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of those distributions that are installed."""
    return {name: found for name in names if (found := version_of(name))}
