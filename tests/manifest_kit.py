"""Manifests of artifacts, with no artifact behind them."""

from typing import Any

import msgspec

from webapp.domain.types import Tuning
from webapp.engine.artifact import FORMAT, Manifest, Tables, Template


def manifest(**different: Any) -> Manifest:
    """A native engine's, but for what is different."""
    made = Manifest(
        format=FORMAT,
        model="a",
        revision="1",
        kind="cross-encoder",
        engine="native",
        precision="int8",
        score_scale="sigmoid",
        unit_vectors=False,
        template=Template(prefix=[], middle=[], suffix=[], document_type=0, pad_id=0, max_length_tokens=8),
        tables=Tables(1, 8, 1),
        recipe=None,
        prompts=("", ""),
        pools_prompts=True,
        activation="Identity",
        fingerprint="",
        source="",
        substitute_for=None,
        fidelity={},
        tuning=Tuning(),
        chosen_because="it passes the gate",
        files={},
        versions={},
        prepared_at="",
    )
    return msgspec.structs.replace(made, **different)
