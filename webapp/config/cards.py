"""NVIDIA cards: what this machine has, and which of them this process computes on.

NVML answers without starting CUDA, so that gunicorn's master may ask: a process that has used CUDA can't be forked.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import IO, Any

from webapp.config.lockfile import lock
from webapp.config.packages import version_of
from webapp.domain.errors import SetupError

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Environment variable: the cards that CUDA sees, by number or UUID, with commas between; unset: all."""

LOCKS = "cards"
"""Folder of the run directory: a file for each card and place there, locked by the worker that computes on it."""


@dataclass(frozen=True, slots=True)
class Card:
    """A card, or a part of one (MIG)."""

    id: str
    """The name that `CUDA_VISIBLE_DEVICES` takes for it."""
    name: str
    memory_bytes: int
    """0: it does not tell."""
    free_bytes: int


def cards() -> list[Card]:
    """Return the cards that CUDA may use here; none without a driver of NVIDIA's."""
    nvml = _library()
    try:
        with _open(nvml):
            return [_card(nvml, identifier) for identifier in _visible(nvml)]
    except nvml.NVMLError:
        return []


def driver() -> str:
    """Return the version of NVIDIA's driver; empty: there is none that answers."""
    nvml = _library()
    try:
        with _open(nvml):
            return str(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError:
        return ""


def cuda_of_driver() -> str:
    """Return the newest version of CUDA that the driver knows, such as 13.0; empty: there is no driver that answers."""
    nvml = _library()
    try:
        with _open(nvml):
            number = int(nvml.nvmlSystemGetCudaDriverVersion())
    except nvml.NVMLError:
        return ""
    return f"{number // 1000}.{number % 1000 // 10}"


def cuda_of_torch() -> str:
    """Return the version of CUDA that torch is built for, such as 13.0; empty: for none, or torch is not installed.

    It is read from a file of torch, because importing torch takes seconds.
    """
    package = find_spec("torch")
    if package is None or package.origin is None:
        return ""
    found = re.search(r"^cuda\b.*= '([\d.]+)'", Path(package.origin).with_name("version.py").read_text(), re.MULTILINE)
    return found[1] if found else ""


def torch_build() -> str:
    """Return the version of torch with the name of its build, such as 2.13.0+cpu; empty: it is not installed."""
    return version_of("torch")


def usable() -> bool:
    """Return whether torch may compute on a card here; `obstacle` says why not. Cheap where torch is built for CPUs."""
    build = torch_build()
    return bool(build) and "+cpu" not in build and bool(cards())


def obstacle() -> str:
    """Return why torch can't compute on a card here, in words; empty: nothing is known that keeps it from it.

    A driver that is too old for this build of torch shows only when a worker starts; `reranking doctor` sees it before.
    """
    build = torch_build()
    if not build:
        return "torch is not installed"
    if not driver():
        return "there is no NVIDIA card here, or its driver does not answer (nvidia-smi tells more)"
    if not cards():
        return f"{VISIBLE} hides all cards" if VISIBLE in os.environ else "the driver knows of no card"
    if "+cpu" in build:
        return f"torch {build} is built for CPUs; run: TORCH_INDEX=none {sys.executable} scripts/install-torch"
    return ""


def check_workers(workers: int) -> None:
    """Check that each worker has a card of its own.

    Raises:
        SetupError: there are fewer cards.
    """
    count = len(cards())
    if 0 < count < workers:
        here = "1 card is" if count == 1 else f"{count} cards are"
        raise SetupError(
            f"RERANK_WORKERS is {workers}, and {here} here: one worker computes on one card; set RERANK_WORKERS={count}"
        )


_held: list[IO[str]] = []
"""Files whose locks this process holds as long as it lives."""


def take_card(locks: Path) -> Card | None:
    """Take the card with the fewest workers for this process, which then sees no other; None: there is none.

    Call it before CUDA is used. Each worker holds the lock of one place on its card; the kernel frees the lock when the
    worker ends, however it ends. While workers are replaced, two may be on one card.

    Args:
        locks: the folder of the locks, which all workers share.
    """
    found = cards()
    if not found:
        return None
    locks.mkdir(parents=True, exist_ok=True)
    for place in count():
        for card in found:
            file = (locks / f"{card.id.replace('/', '-')}.{place}").open("a")
            if lock(file):
                os.environ[VISIBLE] = card.id
                _held.append(file)
                return card
            file.close()
    raise AssertionError("places don't end")


def _library() -> Any:
    """Return NVML's functions. They take 40 ms to import, and few machines have a card."""
    import pynvml  # noqa: PLC0415

    return pynvml


@contextmanager
def _open(nvml: Any) -> Iterator[None]:
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def _visible(nvml: Any) -> list[str]:
    """Return the cards that CUDA sees. As CUDA does, take none after one that is unknown."""
    if VISIBLE not in os.environ:
        handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]
        return [str(nvml.nvmlDeviceGetUUID(part)) for handle in handles for part in _parts(nvml, handle)]
    named = []
    for each in os.environ[VISIBLE].split(","):
        try:
            _handle(nvml, each.strip())
        except (nvml.NVMLError, ValueError):
            break
        named.append(each.strip())
    return named


def _parts(nvml: Any, handle: object) -> list[object]:
    """Return the parts (MIG) that a card is divided into, or the card itself."""
    try:
        divided, _ = nvml.nvmlDeviceGetMigMode(handle)
        count = nvml.nvmlDeviceGetMaxMigDeviceCount(handle) if divided else 0
    except nvml.NVMLError:
        return [handle]  # of a kind that can't be divided
    parts = []
    for number in range(count):
        with suppress(nvml.NVMLError):  # fewer than there may be
            parts.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number))
    return parts or [handle]


def _handle(nvml: Any, identifier: str) -> object:
    if identifier.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(identifier))
    return nvml.nvmlDeviceGetHandleByUUID(identifier)


def _card(nvml: Any, identifier: str) -> Card:
    handle = _handle(nvml, identifier)
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    except nvml.NVMLError:  # of a card that shares the processor's
        total = free = 0
    return Card(identifier, str(nvml.nvmlDeviceGetName(handle)), total, free)
