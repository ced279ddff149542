"""Files of a model: which count, and whether each is whole. Nothing is loaded."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from webapp.domain.errors import SetupError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""The beginning of a file that git-lfs has not replaced by its contents."""

OTHER_FORMATS = frozenset({"onnx", "openvino", "coreml"})
"""Folders of weights that are not read."""

SUFFIXES = frozenset({".safetensors", ".bin", ".model", ".json", ".txt", ".jinja", ".codes"})
"""Of weights, configurations, tokenizers and chat templates."""

OTHER_WEIGHTS = frozenset({".onnx", ".h5", ".msgpack", ".gguf", ".ot", ".tflite"})
"""Endings of weights in formats that are not read."""

VARIANT = re.compile(r"(model\.\w+\.safetensors|pytorch_model\.\w+\.bin)")
"""Weights in another precision, as the hub names them; shards have a list of files beside them."""

_LENGTH_BYTES = 8


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file; an empty one if there is no such file.

    Raises:
        SetupError: it can't be read, or is no JSON object.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SetupError(f"{path} can't be read ({error.strerror})") from error
    refuse_pointer(path, text)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SetupError(f"{path} is no JSON ({error}); fetch the model again") from error
    if not isinstance(found, dict):
        raise SetupError(f"{path} is no JSON object; fetch the model again")
    return found


def files_of(directory: Path) -> list[Path]:
    """Return the files of a model that its scores may depend on, in the order of their paths."""
    return [
        path
        for path in sorted(directory.rglob("*"))
        if path.suffix in SUFFIXES and path.is_file() and not OTHER_FORMATS & {*path.relative_to(directory).parts}
    ]


def stamps_of(directory: Path) -> list[tuple[Path, int, int]]:
    """Return the files of a model with size in bytes and time of change in ns: others after a file was written to."""
    return [(path, stat.st_size, stat.st_mtime_ns) for path in files_of(directory) for stat in [path.stat()]]


def no_weights(directory: Path) -> SetupError:
    """Return an error for a directory without weights that are read, which tells of weights in other formats."""
    read = "model.safetensors or pytorch_model.bin"
    files = [path.relative_to(directory) for path in sorted(directory.rglob("*")) if path.is_file()]
    variants = [path for path in files if VARIANT.fullmatch(str(path))]
    if not (others := variants + [path for path in files if path.suffix in OTHER_WEIGHTS]):
        return SetupError(f"{directory} holds no weights ({read}); fetch the model again")
    renamed = f"give {others[0]} that name, or " if variants else ""
    return SetupError(f"{directory} holds weights as {others[0]}, read are {read}; {renamed}name another RERANK_MODEL")


def check_files(directory: Path) -> None:
    """Refuse files that are not whole.

    Raises:
        SetupError: it names the file.
    """
    for path in files_of(directory):
        if path.name.endswith(".index.json"):
            if path.name.startswith("pytorch_model") and any(path.parent.glob("model.safetensors*")):
                continue  # nobody reads it
            shards = read_json(path).get("weight_map")
            for name in sorted({*shards.values()}) if isinstance(shards, dict) else ["weight_map"]:
                if not (path.parent / str(name)).is_file():
                    raise SetupError(f"{path} names {name}, which is not there; fetch the model again")
            continue
        with path.open("rb") as file:
            refuse_pointer(path, file.read(len(LFS_POINTER)))
        if path.suffix == ".safetensors":
            _check_safetensors(path)
        elif path.suffix == ".bin" and path.name.startswith("pytorch_model"):
            _check_pickle(path)


def refuse_pointer(path: Path, beginning: bytes) -> None:
    """Refuse a file that git-lfs has not fetched.

    Raises:
        SetupError: it is one.
    """
    if beginning.startswith(LFS_POINTER):
        raise SetupError(f"{path} is only git-lfs' pointer to the file; run: git lfs pull, in {path.parent}")


def _check_safetensors(path: Path) -> None:
    """Refuse a safetensors file whose table of contents does not end where the file does."""
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = _LENGTH_BYTES + int.from_bytes(file.read(_LENGTH_BYTES), "little")
        try:
            contents = json.loads(file.read(begin - _LENGTH_BYTES)) if begin <= size else {}
            ends = [entry["data_offsets"][1] for name, entry in contents.items() if name != "__metadata__"]
            expected = begin + int(max(ends))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            expected = -1
    if expected != size:
        of = f" of {expected:,}" if expected > 0 else ""
        raise SetupError(f"{path} is not whole: it has {size:,} bytes{of}; fetch it again")


def _check_pickle(path: Path) -> None:
    """Refuse a file of torch's that was cut short: a zip archive ends with its table of contents."""
    with path.open("rb") as file:
        beginning = file.read(2)
    if not zipfile.is_zipfile(path) and (beginning == b"PK" or beginning[:1] != b"\x80"):  # older ones are no archives
        raise SetupError(f"{path} is not whole, or is no file of torch's; fetch it again")
