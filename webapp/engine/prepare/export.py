"""The original model -> the files that serving reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from webapp.domain.errors import SetupError
from webapp.engine.artifact import MODEL, TOKENIZER
from webapp.engine.models.source import SourceModel
from webapp.engine.tables import check_tables
from webapp.engine.template import Template


def export_tokenizer(source: SourceModel, directory: Path, max_length_tokens: int) -> Template:
    """Write the tokenizer and return how it frames its input.

    Raises:
        SetupError: it gives tokens that the model has no row for, or frames its input in an unknown way.
    """
    backend = source.tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    (directory / TOKENIZER).write_text(backend.to_str(), encoding="utf-8")
    template = read_template(
        backend,
        pair=source.kind == "cross-encoder",
        typed=source.reads_types,
        pad_id=source.tokenizer.pad_token_id or 0,
        max_length_tokens=max_length_tokens,
    )
    check_tables(source.tables, template, backend)
    return template


def read_template(backend: Any, *, pair: bool, typed: bool, pad_id: int, max_length_tokens: int) -> Template:
    """Read the special tokens around texts off an encoded example.

    Raises:
        SetupError: the tokenizer does not put the texts one after the other, or the length leaves no room for them.
    """
    encoding = backend.encode("query", "document") if pair else backend.encode("document")
    places: list[int | None] = encoding.sequence_ids
    document = 1 if pair else 0
    texts = [place for place in places if place is not None]
    if texts != sorted(texts) or document not in texts:
        raise SetupError("the model's tokenizer frames its input in a way that is not supported")
    first = places.index(0)
    document_at = places.index(document)
    end = len(places) - places[::-1].index(document)
    query_end = len(places) - places[::-1].index(0) if pair else first
    template = Template(
        prefix=encoding.ids[:first],
        middle=encoding.ids[query_end:document_at],
        suffix=encoding.ids[end:],
        document_type=encoding.type_ids[document_at] if typed else 0,
        pad_id=pad_id,
        max_length_tokens=max_length_tokens,
    )
    if template.room_tokens < 1 + pair:
        raise SetupError(
            f"RERANK_MAX_LENGTH_TOKENS: {max_length_tokens} leaves no room for texts beside the special tokens"
        )
    return template


def export_openvino(source: SourceModel, directory: Path) -> None:
    """Convert with dynamic shapes and write the model as it is computed: float32, not halved."""
    import openvino as ov
    import torch

    from webapp.engine.prepare.first_token import without_unread_tokens

    module = source.module()
    if source.kind == "cross-encoder":
        module = without_unread_tokens(module)
    example = {name: torch.ones((2, 8), dtype=torch.int64) for name in module.input_names}
    with torch.inference_mode():
        model = ov.convert_model(module, example_input=example)
    for port, name in zip(model.inputs, module.input_names, strict=True):
        port.get_tensor().set_names({name})
    ov.save_model(model, directory / MODEL, compress_to_fp16=False)
