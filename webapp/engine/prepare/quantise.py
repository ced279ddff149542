"""int8: static post-training quantisation by nncf, in its scheme for transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.engine.artifact import MODEL
from webapp.engine.base import Session
from webapp.engine.models.cross_encoder import CrossEncoderEngine
from webapp.engine.models.embedding import EmbeddingEngine


class _Recorder:
    """A forward pass that keeps what it is given."""

    def __init__(self, width: int) -> None:
        self.seen: list[dict[str, NDArray[np.int64]]] = []
        self._width = width

    def __call__(self, input_ids: NDArray[np.int64], mask: NDArray[np.int64], types: NDArray[np.int64]) -> NDArray[Any]:
        self.seen.append({"input_ids": input_ids, "attention_mask": mask, "token_type_ids": types})
        return np.ones((len(input_ids), self._width), np.float32)


def quantise(engine: CrossEncoderEngine | EmbeddingEngine, pairs: Sequence[tuple[str, str]], directory: Path) -> None:
    """Replace the model in an artifact directory by its int8 form.

    Args:
        engine: of the float model in that directory; only its tokenizer is used.
        pairs: what activations are measured on.
        directory: where the model lies.
    """
    import nncf
    import openvino as ov

    core = ov.Core()
    model = core.read_model(directory / MODEL)
    names = [port.any_name for port in model.inputs]
    recorder = _Recorder(width=8)
    session: Session = engine.open_session_on(recorder)
    for text, document in pairs:
        query = session.encode_query(text)
        ids, lengths, _ = session.encode_documents(query, [document])
        session.score([(query, ids[0])], int(lengths[0]))
    inputs = [{name: seen[name] for name in names} for seen in recorder.seen]
    quantised = nncf.quantize(
        model,
        nncf.Dataset(inputs),
        preset=nncf.QuantizationPreset.MIXED,  # asymmetric activations: closer scores at the same speed
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(inputs),
    )
    aside = directory / "quantised.xml"
    ov.save_model(quantised, aside, compress_to_fp16=False)
    del model, quantised  # they map the files that are replaced now
    for suffix in (".bin", ".xml"):
        aside.with_suffix(suffix).replace((directory / MODEL).with_suffix(suffix))
