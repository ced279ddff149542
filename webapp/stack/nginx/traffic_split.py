"""The share of requests that each color gets: symbolic links that nginx connects through.

nginx divides requests over a few upstreams of fixed shares (`split_clients` in its template). Each connects to a link
in the run directory, and the link names a color's socket. To move traffic is to rename links: nginx is not reloaded,
for that resets the connection of a client that sends at the moment (docs/adr/0014-switch-without-reload.md).

A request whose color can't be reached goes to the color that the fallback link names.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from webapp.config.paths import socket_of

PERCENTS = (50, 20, 10, 10, 5, 2, 2, 1)
"""The shares; sums of them make any whole percentage."""

KEPT_S = 1.5
"""Time after which no connection is left from before a link was renamed; nginx keeps them for a second."""

FALLBACK = "fallback.sock"

LINKS = (*(f"share-{place}.sock" for place in range(len(PERCENTS))), FALLBACK)
"""The names of all links: where nginx connects for each of `PERCENTS`, and the fallback."""


def shares_for(percent: int) -> frozenset[int]:
    """Return the places of shares that add up to `percent`. PURE.

    Raises:
        ValueError: it is not a percentage.
    """
    if not 0 <= percent <= 100:  # noqa: PLR2004
        raise ValueError(f"{percent} is no percentage")
    chosen = set()
    for place, share in enumerate(PERCENTS):  # the largest first
        if share <= percent:
            chosen.add(place)
            percent -= share
    return frozenset(chosen)


def point(run_dir: Path, color: str, *, other: str | None = None, percent: int = 100, fallback: str = "") -> None:
    """Give `percent` of the requests to a color and the rest to the other.

    Each link is replaced atomically. The color that had a share before may get requests for `KEPT_S` more.

    Args:
        run_dir: where sockets and links lie.
        color: gets `percent`.
        other: the color that gets the rest; needed below 100.
        percent: whole, 0..100.
        fallback: the color that gets requests which their own did not accept; default: `color`.
    """
    chosen = shares_for(percent)
    for place, link in enumerate(LINKS[:-1]):
        link_to(run_dir / link, color if place in chosen else other or color)
    link_to(run_dir / FALLBACK, fallback or color)


def link_to(link: Path, color: str) -> None:
    """Point a link at a color's socket, whatever it was before."""
    aside = link.with_name(f"{link.name}.new")
    aside.unlink(missing_ok=True)  # a killed predecessor's
    aside.symlink_to(socket_of(link.parent, color).name)
    aside.replace(link)


def color_of(link: Path, colors: Iterable[str]) -> str:
    """Return the color of the socket that a link names; empty if it names none, or is no link."""
    try:
        named = link.readlink().name
    except OSError:
        return ""
    return next((color for color in colors if socket_of(link.parent, color).name == named), "")
