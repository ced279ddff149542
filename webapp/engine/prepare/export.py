"""Write what serving reads: the tokenizer, and OpenVINO's model in float32 or int8. `pack` has the native engine's."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from webapp.domain.errors import SetupError
from webapp.engine.artifact import MODEL, TOKENIZER, Template
from webapp.engine.base import score_pair
from webapp.engine.loader import ModelEngine
from webapp.engine.models.feature_module import FeatureModule
from webapp.engine.models.source import SourceModel
from webapp.engine.prepare.progress import ReportShare
from webapp.engine.recipes import Recipe
from webapp.engine.tokenizer import check_tables

CALIBRATION_PASSES = 3
"""How often nncf reads the texts: to smooth activations, to measure them, to correct biases."""


def export_tokenizer(source: SourceModel, directory: Path) -> Template:
    """Write the tokenizer and return how it frames texts.

    Raises:
        SetupError: it gives tokens that the model has no row for, does not put the texts one after the other, or the
            length leaves no room for them.
    """
    backend = source.tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    (directory / TOKENIZER).write_text(backend.to_str(), encoding="utf-8")
    template = _recipe_s_frame(source, source.recipe) if source.recipe else _own_frame(source)
    prompts = [len(backend.encode(prompt, add_special_tokens=False)) for prompt in source.prompts]
    if template.room_tokens - max(prompts) < 1 + (source.kind == "cross-encoder"):
        beside = "the special tokens and prompts" if any(prompts) else "the special tokens"
        raise SetupError(
            f"RERANK_MAX_LENGTH_TOKENS: {source.max_length_tokens} leaves no room for texts beside {beside}"
        )
    check_tables(source.tables, template, backend)
    return template


def _own_frame(source: SourceModel) -> Template:
    """Return the frame that a tokenizer puts around texts by itself, read off an encoded example."""
    backend = source.tokenizer.backend_tokenizer
    pair = source.kind == "cross-encoder"
    encoding = backend.encode("query", "document") if pair else backend.encode("document")
    places: list[int | None] = encoding.sequence_ids
    document = int(pair)
    texts = [place for place in places if place is not None]
    if texts != sorted(texts) or document not in texts:
        raise SetupError("the model's tokenizer frames its input in a way that is not supported")
    document_at, backwards = places.index(document), places[::-1]
    return Template(
        prefix=encoding.ids[: places.index(0)],
        middle=encoding.ids[len(places) - backwards.index(0) : document_at],  # empty where there is one text
        suffix=encoding.ids[len(places) - backwards.index(document) :],
        document_type=encoding.type_ids[document_at] if source.reads_types else 0,
        pad_id=source.tokenizer.pad_token_id or 0,
        max_length_tokens=source.max_length_tokens,
        truncation_side="left" if source.tokenizer.truncation_side == "left" else "right",
    )


def _recipe_s_frame(source: SourceModel, recipe: Recipe) -> Template:
    """Return the frame that a recipe names; the words of query and document are made tokens of with these."""
    tokenizer = source.tokenizer

    def tokens(texts: Sequence[str]) -> list[int]:
        return [token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]]

    first: list[int] = []
    last: list[int] = []
    if recipe.special_tokens:
        encoding = tokenizer.backend_tokenizer.encode("document")
        places = encoding.special_tokens_mask
        first = encoding.ids[: places.index(0)]
        last = encoding.ids[len(places) - places[::-1].index(0) :]
    return Template(
        prefix=first + tokens(recipe.prefix),
        middle=tokens(recipe.middle),
        suffix=tokens(recipe.suffix) + last,
        document_type=0,
        pad_id=tokenizer.pad_token_id or 0,
        max_length_tokens=source.max_length_tokens,
        names_are_text=True,
    )


def export_openvino(source: SourceModel, directory: Path) -> None:
    """Convert the model with dynamic shapes and write it in float32."""
    import openvino as ov

    module = source.module()
    if isinstance(module, FeatureModule) and source.kind == "cross-encoder":
        module = with_first_token_only(module)
    example = {name: torch.ones((2, 8), dtype=torch.int64) for name in module.input_names}
    with torch.inference_mode():
        model = ov.convert_model(module, example_input=example)
    for port, name in zip(model.inputs, module.input_names, strict=True):
        port.get_tensor().set_names({name})
    ov.save_model(model, directory / MODEL, compress_to_fp16=False)


class FirstTokenLayer(torch.nn.Module):  # type: ignore[misc] # torch is not analysed
    """A transformer layer that computes its first token only: [rows, length, width] -> [rows, 1, width].

    A classifier of BERT's family reads no other token of its last layer. That layer's keys and values are still needed
    for every token; its queries, attention output and feed-forward part are not, which is 10 of the layer's 12 matrix
    products. Exact: nobody reads what is left out. With six layers about a seventh of all work is saved.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Any, attention_mask: Any = None, *_args: Any, **_options: Any) -> Any:
        """Compute what the layer does, with the first token's query alone."""
        attention = self.layer.attention.self
        first = hidden[:, :1]

        def heads(projection: Any, states: Any) -> Any:
            return (
                projection(states)
                .view(states.shape[0], -1, attention.num_attention_heads, attention.attention_head_size)
                .transpose(1, 2)
            )

        context = torch.nn.functional.scaled_dot_product_attention(
            heads(attention.query, first),
            heads(attention.key, hidden),
            heads(attention.value, hidden),
            attn_mask=None if attention_mask is None else attention_mask[..., :1, :],
        )
        context = context.transpose(1, 2).reshape(hidden.shape[0], 1, attention.all_head_size)
        attended = self.layer.attention.output(context, first)
        return self.layer.output(self.layer.intermediate(attended), attended)


def with_first_token_only(module: FeatureModule) -> FeatureModule:
    """Return a copy whose last layer is a `FirstTokenLayer`, or the module itself if that changes its output."""
    # Its layers are copied, not their weights.
    shared = [*module.parameters(), *module.buffers(), getattr(module.model, "tokenizer", None)]
    trimmed = copy.deepcopy(module, {id(part): part for part in shared})
    try:
        layers = trimmed.model.model.base_model.encoder.layer
        layers[-1] = FirstTokenLayer(layers[-1])
        if _same_output(module, trimmed):
            return trimmed
    except (AttributeError, TypeError, IndexError, RuntimeError):
        pass  # another architecture: nothing is lost but speed
    return module


def _same_output(left: FeatureModule, right: FeatureModule) -> bool:
    """Return whether both give the same output, on rows of different length."""
    mask = torch.ones((3, 24), dtype=torch.int64)
    mask[1, 9:] = 0
    inputs = {
        "input_ids": torch.arange(72).reshape(3, 24) % 50 + 5,
        "attention_mask": mask,
        "token_type_ids": (torch.arange(24) > 8).long().repeat(3, 1),  # noqa: PLR2004 - anywhere inside
    }
    with torch.inference_mode():
        given = [inputs[name] for name in left.input_names]
        return bool(torch.allclose(left(*given), right(*given), atol=1e-5, rtol=1e-5))


def quantize(
    engine: ModelEngine,
    pairs: Sequence[tuple[str, str]],
    directory: Path,
    report_share: ReportShare = lambda _share: None,
) -> None:
    """Replace the OpenVINO model in a directory by its int8 form: nncf's static quantization, for transformers.

    Args:
        engine: of the float model in that directory; only its tokenizer is used.
        pairs: texts to measure activations on.
        directory: where the model lies.
        report_share: takes the share that is done.
    """
    import nncf
    import openvino as ov

    model = ov.Core().read_model(directory / MODEL)
    names = [port.any_name for port in model.inputs]
    inputs: list[dict[str, NDArray[np.int64]]] = []

    def record(input_ids: NDArray[np.int64], mask: NDArray[np.int64], types: NDArray[np.int64]) -> NDArray[Any]:
        given = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": types}
        inputs.append({name: given[name] for name in names})
        return np.ones((len(input_ids), 8), np.float32)

    session = engine.open_session(record)
    for query, document in pairs:
        score_pair(session, query, document)
    taken = itertools.count(1)

    def take(given: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
        report_share(next(taken) / (CALIBRATION_PASSES * len(inputs)))
        return given

    quantized = nncf.quantize(
        model,
        nncf.Dataset(inputs, take),
        preset=nncf.QuantizationPreset.MIXED,  # asymmetric activations: closer scores at the same speed
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(inputs),
    )
    del model
    _replace(quantized, directory)


def compress(directory: Path) -> None:
    """Replace the OpenVINO model in a directory by one with int8 weights, its table of words too.

    For decoders: it reads no texts and takes seconds, and activations are quantized as they come, a token at a time.
    The head of one row stays as it is: with two streams OpenVINO 2026.4 leaves out the scale of such a row in int8.
    """
    import nncf
    import openvino as ov

    model = ov.Core().read_model(directory / MODEL)
    shapes = {
        node.get_friendly_name(): node.input(1).get_partial_shape()
        for node in model.get_ops()
        if node.get_type_name() == "MatMul"
    }
    heads = [name for name, shape in shapes.items() if shape.is_static and 1 in list(shape.to_shape())]
    compressed = nncf.compress_weights(
        model, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=nncf.IgnoredScope(names=heads)
    )
    del model
    _replace(compressed, directory)


def _replace(model: Any, directory: Path) -> None:
    """Write a model in place of the one that it was made of."""
    import openvino as ov

    staged = directory / "quantized.xml"
    ov.save_model(model, staged, compress_to_fp16=False)
    del model  # it maps the files that are replaced now
    for suffix in (".bin", ".xml"):
        staged.with_suffix(suffix).replace((directory / MODEL).with_suffix(suffix))
