"""Load the original of whatever kind a directory holds."""

from __future__ import annotations

from pathlib import Path

import transformers
from tokenizers import Tokenizer
from transformers import CONFIG_MAPPING, AutoConfig
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from webapp.domain.errors import SetupError
from webapp.engine.models.decoder_source import DecoderModel
from webapp.engine.models.layout import SAME_AS_CODE, Layout, read_layout
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
    return load_layout(read_layout(directory, model, recipe), device)


def load_layout(layout: Layout, device: str = "cpu") -> SourceModel:
    """Return the model of a directory that was looked through, in float32.

    Raises:
        SetupError: it can't be served rightly.
    """
    return DecoderModel(layout, device) if is_decoder(layout) else SourceModel(layout, device)


def blamed_file(layout: Layout) -> Path:
    """Return the file because of which a model can't be loaded: the first that its own library can't read.

    The directory itself, where each can be read, and only together they make no model.
    """
    config, tokenizer = (layout.transformer / name for name in ("config.json", "tokenizer.json"))
    try:
        if layout.config.get("model_type") in CONFIG_MAPPING:
            AutoConfig.from_pretrained(str(layout.transformer), local_files_only=True, trust_remote_code=False)
    except Exception:  # noqa: BLE001 - each library has its own
        return config
    try:
        if tokenizer.is_file():
            Tokenizer.from_file(str(tokenizer))
    except Exception:  # noqa: BLE001
        return tokenizer
    return layout.directory


def is_decoder(layout: Layout) -> bool:
    """Return whether a model reads a pair among words, and is scored by the last token or by all.

    Raises:
        SetupError: it is a decoder with a head for labels that nothing tells the words of, or none with a recipe.
    """
    classifier = getattr(transformers, layout.architecture, None)
    generic = isinstance(classifier, type) and issubclass(classifier, GenericForSequenceClassification)
    if layout.recipe is not None:
        decoders = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        if not generic and layout.architecture not in decoders and layout.config.get("model_type") not in SAME_AS_CODE:
            raise SetupError(
                f"RERANK_RECIPE: {layout.recipe.name} is for decoders, and {layout.directory} is {layout.architecture},"
                " which is none; unset RERANK_RECIPE"
            )
        return True
    if layout.kind == "embedding":
        return False
    if layout.architecture.endswith("ForCausalLM"):
        return True
    if not generic:
        return False
    if not layout.modules:
        raise SetupError(
            f"{layout.directory} is {layout.architecture}, a decoder, and nothing says which words it reads around a"
            " query and a document; write them into a file, and name it by RERANK_RECIPE"
        )
    return True
