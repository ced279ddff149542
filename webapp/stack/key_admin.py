"""Make, list and remove keys of the key file. A key is shown once; the file holds its hash."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contracts.api_keys import NAME, OWN_NAME, Key, digest_of, line_of, new_key, read_file
from webapp.config.lockfile import lock
from webapp.domain.errors import SetupError


def add(path: Path, name: str, *, operator: bool, requests: int | None, documents: int | None) -> str:
    """Make a key, store its hash, and return it.

    Args:
        path: of the key file, which is made if it is missing.
        name: of the caller; it may have several keys.
        operator: may see all requests on the dashboard.
        requests: a minute, at most; None: the settings' limit; 0: any number.
        documents: a minute, at most; as above.

    Raises:
        SetupError: the name is not allowed, or the file can't be written.
    """
    if not NAME.fullmatch(name) or name == OWN_NAME:
        raise SetupError(f"a name is up to 64 letters, digits, '.', '_' or '-', and not {OWN_NAME!r}")
    key = new_key()
    with _lines(path, new=True) as lines:
        lines.append(line_of(Key(name, digest_of(key), operator, requests, documents)))
    return key


def listing(path: Path) -> list[str]:
    """Return a line for each key, with the first digits of its hash.

    Raises:
        SetupError: a line of the file is not valid.
    """
    keys, problems = read_file(path)
    if problems:
        raise SetupError("; ".join(problems))
    return [line_of(key).replace(key.digest.hex(), f"{key.digest.hex()[:8]}...") for key in keys]


def remove(path: Path, name: str, *, oldest: bool) -> None:
    """Remove the keys of a name, or the first of them.

    Raises:
        SetupError: there is none, or the file can't be written.
    """
    with _lines(path) as lines:
        places = [place for place, line in enumerate(lines) if line.split()[:1] == [name]]
        if not places:
            raise SetupError(f"there is no key of {name!r}; `reranking keys list` shows those that are")
        for place in reversed(places[:1] if oldest else places):
            del lines[place]


@contextmanager
def _lines(path: Path, *, new: bool = False) -> Iterator[list[str]]:
    """Yield the file's lines to be changed, then replace it as a whole; by one process at a time."""
    path = path.expanduser()
    try:
        folder = os.open(path.parent, os.O_RDONLY)  # locked in its place: the file itself is another one afterwards
        try:
            lock(folder, wait=True)
            if new:
                path.touch(mode=0o600)
            before = path.stat()
            lines = path.read_text(encoding="utf-8").splitlines()
            yield lines
            with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as fresh:
                fresh.write("".join(f"{line}\n" for line in lines))
            Path(fresh.name).chmod(before.st_mode & 0o777)
            os.chown(fresh.name, before.st_uid, before.st_gid)
            Path(fresh.name).replace(path)
        finally:
            os.close(folder)
    except OSError as error:
        raise SetupError(f"{path} can't be changed ({error.strerror}); give another --file") from error
