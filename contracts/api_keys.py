"""API keys: read, hashed and compared, for webapp and pusher. Imports nothing of ours.

A key file has a line for each key, `name sha256:<hash of the key> [operator] [requests=N] [documents=N]`, and comments
after `#`. Several lines may have one name: that is how a key is replaced without an outage.

Our keys are 256 random bits, so nobody can try them all and a fast hash is right: bcrypt defends passwords that people
choose, and would cost every request a tenth of a second.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from secrets import token_urlsafe

OWN_NAME = "self"
"""Name of the stack's own key: made at each start, no limits."""

SYNTHETIC_HEADER = "X-Rerank-Synthetic"
"""Header of test calls by our own programs; it needs the stack's own key."""

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""It is in logs, so it holds no spaces, no quotes."""

_HASH = re.compile(r"sha256:([0-9a-f]{64})")

LONGEST_FILE_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Key:
    """One key, as it is kept."""

    name: str
    digest: bytes
    """SHA-256, 32 bytes."""
    operator: bool = False
    """Sees everybody's requests on the dashboard."""
    requests_per_minute: int | None = None
    """None: the limit for all; 0: any number."""
    documents_per_minute: int | None = None


class KeyFileError(ValueError):
    """A key file that is missing, unsound or empty."""


class KeyRing:
    """The keys that open the service; `reload` reads the files again.

    Args:
        setting: keys, comma-separated; they are named by their places, `setting-1` first.
        file: path of a key file; empty: none.
        own: path of the file with the stack's own key, which `make_own` writes; it may be absent.
    """

    def __init__(self, setting: str = "", file: str = "", own: Path | None = None) -> None:
        keys = [key.strip() for key in setting.split(",") if key.strip()]
        self._fixed = [Key(f"setting-{place}", digest_of(key)) for place, key in enumerate(keys, 1)]
        self._file = file
        self._own = own
        self._keys: list[Key] = []
        self.guarded = bool(keys or file)
        """Whether a key is asked for. A key file that is empty, or gone, opens nothing."""
        self.problems: list[str] = []
        """The lines of the key file that were left out, each with the reason."""
        self.reload()

    def reload(self) -> None:
        """Read the files again. What is wrong there opens nothing, and is listed in `problems`."""
        found, self.problems = read_file(Path(self._file)) if self._file else ([], [])
        own = own_key(self._own) if self._own else ""
        mine = [Key(OWN_NAME, digest_of(own), operator=True)] if own else []
        self.has_operators = any(key.operator for key in found)
        self._in_file = len(found)
        self._keys = [*self._fixed, *found, *mine]

    def check(self) -> None:
        """Check the key file, before the first start, when an operator is there to read the error.

        Raises:
            KeyFileError: the key file is not there, not sound, or empty.
        """
        if self.problems:
            raise KeyFileError("; ".join(self.problems))
        if self._file and not self._in_file:
            raise KeyFileError(f"there is no key in {self._file}; make one: reranking keys add NAME")

    def find(self, presented: Iterable[str]) -> tuple[Key, str] | None:
        """Return the first of these that is a known key, as it is kept and as it was presented.

        Digests have one length, and each is compared with all of ours in constant time: the time it takes shows neither
        whether a key was nearly right nor which one was.
        """
        found = None
        for given in presented:
            digest = digest_of(given)
            for key in self._keys:
                if hmac.compare_digest(digest, key.digest) and found is None:
                    found = key, given
        return found


def digest_of(key: str) -> bytes:
    """Return the digest that is kept of a key, 32 bytes."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def new_key() -> str:
    """Return a key of 256 random bits, with a prefix by which leaked keys are found."""
    return f"rrk_{token_urlsafe(32)}"


def line_of(key: Key) -> str:
    """Return a key as a line of a key file."""
    words = [key.name, f"sha256:{key.digest.hex()}"]
    words += ["operator"] if key.operator else []
    limits = {"requests": key.requests_per_minute, "documents": key.documents_per_minute}
    return " ".join(words + [f"{unit}={count}" for unit, count in limits.items() if count is not None])


def read_file(path: Path) -> tuple[list[Key], list[str]]:
    """Return the keys of a file, and its problems: they name lines, and never quote what may be a key."""
    try:
        mode = path.stat().st_mode
        with path.open(encoding="utf-8") as file:
            text = file.read(LONGEST_FILE_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        return [], [f"{path} can't be read ({reason}); make it: reranking keys add NAME"]
    if mode & stat.S_IWOTH:
        return [], [f"{path} can be written by everybody; chmod 600 it"]
    if len(text) > LONGEST_FILE_BYTES:
        return [], [f"{path} is larger than {LONGEST_FILE_BYTES} bytes: it is no key file"]
    keys, problems = [], []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            keys.append(_key(words))
        except ValueError as error:
            problems.append(f"{path}, line {number}: {error}")
    return keys, problems


def _key(words: list[str]) -> Key:
    name, *rest = words
    if not NAME.fullmatch(name) or name == OWN_NAME:
        raise ValueError(f"a name is up to 64 letters, digits, '.', '_' or '-', and not {OWN_NAME!r}")
    given = _HASH.fullmatch(rest[0]) if rest else None
    if given is None:
        raise ValueError("after the name comes sha256: and the 64 hex digits of the key's hash")
    limits: dict[str, int] = {}
    for word in rest[1:]:
        unit, _, count = word.partition("=")
        if word == "operator":
            continue
        if unit not in {"requests", "documents"} or not re.fullmatch("[0-9]{1,9}", count):
            raise ValueError("after the hash may come: operator, requests=N, documents=N")
        limits[f"{unit}_per_minute"] = int(count)
    return Key(name, bytes.fromhex(given[1]), operator="operator" in rest[1:], **limits)


def own_key(path: Path) -> str:
    """Return the stack's own key; empty where no stack has made one."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def make_own(path: Path) -> None:
    """Make a new own key of the stack, in a file for this user alone."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(new_key(), encoding="ascii")
