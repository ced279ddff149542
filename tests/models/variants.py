"""What repositories do to a model's files: each function changes a directory that a test built."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from small_decoders import change

Build = Callable[[Path], Path]
Change = Callable[[Path], Any]

WEIGHTS = "model.safetensors"


def changed(build: Build, *changes: Change) -> Build:
    """Return what builds a model and changes its files."""

    def both(directory: Path) -> Path:
        built = build(directory)
        for each in changes:
            built = each(built) or built
        return built

    return both


def configured(file: str, **different: Any) -> Change:
    """Return what sets fields of a JSON file; None takes a field away."""

    def apply(directory: Path) -> None:
        change(directory / file, **different)

    return apply


def without(*names: str) -> Change:
    def apply(directory: Path) -> None:
        for name in names:
            (directory / name).unlink()

    return apply


def renamed(name: str, other: str) -> Change:
    def apply(directory: Path) -> None:
        (directory / other).parent.mkdir(exist_ok=True)
        (directory / name).rename(directory / other)

    return apply


def in_type(name: str) -> Change:
    """Return what stores the weights in another type, as config.json then says."""

    def apply(directory: Path) -> None:
        import torch

        tensors = {key: value.to(getattr(torch, name)) for key, value in load_file(directory / WEIGHTS).items()}
        save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
        change(directory / "config.json", dtype=name)

    return apply


def in_shards(directory: Path) -> None:
    """Store the weights in three files and an index."""
    tensors = load_file(directory / WEIGHTS)
    (directory / WEIGHTS).unlink()
    names = sorted(tensors)
    placed = {name: f"model-{number % 3 + 1:05}-of-00003.safetensors" for number, name in enumerate(names)}
    for file in sorted(set(placed.values())):
        part = {name: tensors[name] for name in names if placed[name] == file}
        save_file(part, directory / file, metadata={"format": "pt"})
    size = sum(value.nbytes for value in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": placed}
    (directory / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def in_a_pickle(directory: Path) -> None:
    """Store the weights in pytorch_model.bin alone, as older repositories do."""
    import torch

    torch.save(load_file(directory / WEIGHTS), directory / "pytorch_model.bin")
    (directory / WEIGHTS).unlink()


def without_tensor(name: str) -> Change:
    def apply(directory: Path) -> None:
        tensors = load_file(directory / WEIGHTS)
        del tensors[name]
        save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})

    return apply


def with_tensor(name: str) -> Change:
    """Return what adds a tensor that no layer takes."""

    def apply(directory: Path) -> None:
        import torch

        tensors = load_file(directory / WEIGHTS) | {name: torch.ones(4, 4)}
        save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})

    return apply


def with_nan(name: str) -> Change:
    def apply(directory: Path) -> None:
        tensors = load_file(directory / WEIGHTS)
        tensors[name] = tensors[name] * float("nan")
        save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})

    return apply


def with_a_word_list_alone(directory: Path) -> None:
    """Keep only vocab.txt of BERT's tokenizer."""
    words = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    (directory / "vocab.txt").write_text("".join(f"{word}\n" for word in sorted(words, key=words.get)))
    (directory / "tokenizer.json").unlink()


def as_a_pointer(name: str) -> Change:
    """Return what leaves git-lfs' pointer in place of a file."""

    def apply(directory: Path) -> None:
        (directory / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")

    return apply


def cut_short(name: str) -> Change:
    def apply(directory: Path) -> None:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: len(content) // 2])

    return apply


def as_the_hub_s_cache(directory: Path) -> Path:
    """Move the files to blobs, with links to them in the folder of a snapshot."""
    blobs, snapshot = directory / "blobs", directory / "snapshots" / "0123abcd"
    for path in [path for path in sorted(directory.rglob("*")) if path.is_file()]:
        link = snapshot / path.relative_to(directory)
        link.parent.mkdir(parents=True, exist_ok=True)
        blobs.mkdir(exist_ok=True)
        blob = blobs / f"{len(list(blobs.iterdir())):040x}"
        shutil.move(path, blob)
        link.symlink_to(blob)
    return snapshot


def in_a_folder_of_its_own(directory: Path) -> None:
    """Move the transformer to a folder, where older releases of sentence-transformers saved it."""
    listed = json.loads((directory / "modules.json").read_text())
    listed[0]["path"] = "0_Transformer"
    (directory / "0_Transformer").mkdir()
    for path in sorted(directory.glob("*.*")):
        if path.name not in {"modules.json", "config_sentence_transformers.json", "README.md"} and path.is_file():
            path.rename(directory / "0_Transformer" / path.name)
    (directory / "modules.json").write_text(json.dumps(listed))


def at_an_odd_path(directory: Path) -> Path:
    return directory.rename(directory.with_name("mein Modell № 5, 駅 (v1.0) 'a' & b"))


def read_only(directory: Path) -> None:
    for path in [*directory.rglob("*"), directory]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def saved_as(class_name: str, **options: Any) -> Change:
    """Return what has sentence-transformers load a model, and save it in its own layout."""

    def apply(directory: Path) -> Path:
        import sentence_transformers

        saved = directory.with_name("saved")
        getattr(sentence_transformers, class_name)(str(directory), **options).save(str(saved))
        return saved

    return apply


def with_code(class_name: str) -> Change:
    """Return what names code of the model's own, which ends the program that runs it."""

    def apply(directory: Path) -> None:
        change(directory / "config.json", auto_map={"AutoModelForSequenceClassification": f"modeling.{class_name}"})
        (directory / "modeling.py").write_text("raise SystemExit('it was run')")

    return apply


built = functools.partial
"""A builder with its options."""
