"""Write the files of each engine's artifact."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

from webapp.domain.errors import SetupError
from webapp.engine.artifact import MODEL, PACKED_MODEL, TOKENIZER, EngineName, Manifest
from webapp.engine.base import score_pair
from webapp.engine.loader import ModelEngine, open_engine
from webapp.engine.models.source import SourceModel
from webapp.engine.prepare import export
from webapp.engine.prepare.calibration import Examples
from webapp.engine.prepare.pack import pack
from webapp.engine.prepare.pack_floats import pack_floats
from webapp.engine.prepare.progress import ReportShare
from webapp.engine.prepare.room import check_disk
from webapp.engine.runtimes.gpu.device import DTYPES
from webapp.engine.runtimes.native import NativeRuntime
from webapp.engine.runtimes.openvino import NO_BF16, OpenVINORuntime
from webapp.engine.runtimes.torch import LoadedRuntime

CONVERTED_SHARE = 0.3
"""The share that a conversion has of the time until a model is quantized."""

INT8_SHARE = 0.25
"""How large weights are in int8, of what they are in float32."""

SMOOTHING_PAIRS = 16
"""Pairs that a model computes in torch before it is packed: its channels' peaks show in a few hundred tokens."""


class NotForThisModelError(SetupError):
    """An engine does not know the model's architecture."""


def pack_native(
    manifest: Manifest,
    original: SourceModel,
    examples: Examples,
    directory: Path,
    report_share: ReportShare = lambda _share: None,
) -> None:
    """Write the native engine's file.

    Raises:
        NotForThisModelError: it can't compute this model.
    """
    recipe = manifest.recipe
    if not manifest.template.special_tokens and not (recipe and recipe.of_query("") + recipe.of_document("")):
        raise NotForThisModelError(
            "the native engine needs a tokenizer that adds special tokens: a row has one at least"
        )
    path = directory / PACKED_MODEL
    session = ModelEngine(manifest, LoadedRuntime(original), directory / TOKENIZER).open_session()
    pairs = examples.calibration[:SMOOTHING_PAIRS]
    if not pack(original, path, lambda: [score_pair(session, *pair) for pair in pairs], report_share):
        raise NotForThisModelError("the native engine does not know this architecture")
    try:
        NativeRuntime(path)
    except SetupError as error:
        raise NotForThisModelError(f"the native engine can't compute this model: {error}") from error


def convert_to_openvino(
    manifest: Manifest, original: SourceModel, examples: Examples, directory: Path, report_share: ReportShare
) -> None:
    """Write OpenVINO's files; the conversion is done once for all of its candidates, and takes the disk once."""
    converted = directory.with_name("converted")
    is_int8 = manifest.precision == "int8"
    check_disk(original.layout, directory, (not converted.exists()) + is_int8 * INT8_SHARE)
    if not converted.exists():
        converted.mkdir()
        export.export_openvino(original, converted)
    if manifest.precision == "bf16" and not OpenVINORuntime(converted / MODEL, "bf16").takes_bf16():
        raise NotForThisModelError(f"openvino bf16 is left out: {NO_BF16}")
    report_share(CONVERTED_SHARE)
    for path in converted.iterdir():
        (directory / path.name).hardlink_to(path)
    if not is_int8:
        return
    with redirect_stdout(io.StringIO()):  # nncf draws bars of its own
        if original.recipe is not None:
            export.compress(directory)
        else:
            export.quantize(
                open_engine(directory, manifest),
                examples.calibration,
                directory,
                lambda share: report_share(CONVERTED_SHARE + share * (1 - CONVERTED_SHARE)),
            )


def pack_for_torch(
    manifest: Manifest, original: SourceModel, _examples: Examples, directory: Path, report_share: ReportShare
) -> None:
    """Write the packed model; nothing for a model that torch computes by its own files."""
    pack_floats(original, directory / PACKED_MODEL, DTYPES[manifest.precision], report_share)


EXPORTS: dict[EngineName, tuple[str, Callable[[Manifest, SourceModel, Examples, Path, ReportShare], None]]] = {
    "native": ("packing it", pack_native),
    "openvino": ("converting it", convert_to_openvino),
    "torch": ("packing it", pack_for_torch),
}
"""Engine -> what is done to the model, in words, and what does it."""
