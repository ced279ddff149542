"""Load the original of whatever kind a directory holds."""

from __future__ import annotations

from pathlib import Path

import transformers
from transformers.modeling_layers import GenericForSequenceClassification

from webapp.domain.errors import SetupError
from webapp.engine.models.decoder_source import DecoderModel
from webapp.engine.models.layout import Layout, read_layout
from webapp.engine.models.source import SourceModel
from webapp.engine.recipes import Recipe


def load_source(directory: Path, device: str = "cpu", *, model: str = "", recipe: Recipe | None = None) -> SourceModel:
    """Return a model in float32.

    Args:
        directory: of its files.
        device: of torch.
        model: its id; see `read_layout`.
        recipe: a decoder's; None: its files or its names tell.

    Raises:
        SetupError: it can't be served rightly.
    """
    layout = read_layout(directory, model, recipe)
    return DecoderModel(layout, device) if is_decoder(layout) else SourceModel(layout, device)


def is_decoder(layout: Layout) -> bool:
    """Return whether a model reads a pair among words, and is scored by the last token or by all.

    Raises:
        SetupError: it is a decoder with a head for labels that nothing tells the words of.
    """
    if layout.recipe is not None:
        return True
    if layout.kind == "embedding":
        return False
    if layout.architecture.endswith("ForCausalLM"):
        return True
    classifier = getattr(transformers, layout.architecture, None)
    if not (isinstance(classifier, type) and issubclass(classifier, GenericForSequenceClassification)):
        return False
    if not layout.modules:
        raise SetupError(
            f"{layout.directory} is {layout.architecture}, a decoder, and nothing says which words it reads around a"
            " query and a document; write them into a file, and name it by RERANK_RECIPE"
        )
    return True
