"""What the native engine can compute: transformers' classes, described in the words of native/border.h.

A new architecture of the same operations is a function here. Weights are read by their place in a class, so a class
that is not known by name is none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from webapp.engine.models.decoder_source import DecoderModel, DecoderScore
from webapp.engine.models.source import SourceModel
from webapp.engine.prepare.architecture import (
    Architecture,
    Head,
    Layer,
    Matrix,
    UnknownArchitectureError,
    activation_of,
    floats_of,
    matrix_of,
    norm_of,
    post_norm,
    require,
    rms_norm_of,
    shape_of,
)
from webapp.engine.runtimes.packed import PANEL, POOLS

POOLS_OF_ENCODERS = {"cls": "first", "mean": "mean"}
"""sentence-transformers' names, and ModernBERT's, to the kernels'."""

ROTARY = ("default", "linear", "llama3")
"""Rotary positions whose frequencies are the same for texts of all lengths."""


def architecture_of(source: SourceModel) -> Architecture | None:
    """Return a model's architecture; None: the native engine can't compute it."""
    try:
        return of_decoder(source.module()) if isinstance(source, DecoderModel) else of_encoder(source)
    except (AttributeError, TypeError, ValueError, LookupError, UnknownArchitectureError):
        return None


def of_encoder(source: SourceModel) -> Architecture:
    """Return an encoder's architecture: of a cross-encoder, or of a bi-encoder whose vectors are its tokens' outputs.

    Raises:
        UnknownArchitectureError: the kernels can't compute it. So do AttributeError and others.
    """
    transformer, *modules = source.model
    encoder = transformer.model.base_model
    found = ENCODERS[encoder.config.model_type](encoder)
    # Positions that are turned, not looked up, have no end; a model may say that it reads more of them.
    if found.shape["rotaries"]:
        found.shape["positions"] = max(found.shape["positions"], source.max_length_tokens)
    _require_outputs(transformer, "token_embeddings" if modules else "scores", of_tokens=bool(modules))
    if source.kind == "embedding":
        pooling, *rest = modules
        whole = source.model.truncate_dim is None and source.pools_prompts
        require(whole and all(type(each).__name__ == "Normalize" for each in rest))
        pool = _pool(pooling)
    elif modules:
        pool, found.head = _head_of_modules(modules, found.shape["epsilon"])
    else:
        pool, found.head = _head(transformer.model)
    found.shape["pool"] = POOLS.index(POOLS_OF_ENCODERS[pool])
    return _checked(found)


def _require_outputs(transformer: Any, name: str, *, of_tokens: bool) -> None:
    """Require sentence-transformers to read the output of transformers' class that the kernels compute."""
    task, output = ("feature-extraction", "last_hidden_state") if of_tokens else ("sequence-classification", "logits")
    read = transformer.modality_config["text"]
    require(transformer.transformer_task == task and transformer.module_output_name == name)
    require(read["method"] == "forward" and read["method_output_name"] == output)


def _checked(found: Architecture) -> Architecture:
    """Return it, if the kernels take its widths."""
    embedded, hidden = found.words.embedding_dim, found.shape["hidden"]
    require(not any(found.shape[name] % PANEL for name in ("hidden", "wide", "dim")) and not embedded % PANEL)
    require(embedded < hidden if found.widened else embedded == hidden)
    return found


def _bert(encoder: Any) -> Architecture:
    """Return BERT, RoBERTa, XLM-RoBERTa or ELECTRA."""
    config, embeddings = encoder.config, encoder.embeddings
    require(getattr(config, "position_embedding_type", None) in (None, "absolute"))
    require(not getattr(config, "is_decoder", False))
    # RoBERTa counts positions from one past its padding index, and leaves out what looks like padding.
    pad = config.pad_token_id if config.model_type in ("roberta", "xlm-roberta") else -1
    layers = list(encoder.encoder.layer)
    tables = {
        "positions": floats_of(embeddings.position_embeddings.weight)[max(pad, 0) :],
        "types": floats_of(embeddings.token_type_embeddings.weight),
    }
    return Architecture(
        shape=shape_of(
            **post_norm(config.hidden_size, config.intermediate_size, config.num_attention_heads),
            positions=len(tables["positions"]) - (pad >= 0),
            types=len(tables["types"]),
            pad=pad,
            activation=activation_of(layers[0].intermediate.intermediate_act_fn),
            epsilon=config.layer_norm_eps,
        ),
        words=embeddings.word_embeddings,
        tables=tables,
        norms={"words": norm_of(embeddings.LayerNorm)},
        widened=matrix_of(encoder.embeddings_project) if hasattr(encoder, "embeddings_project") else None,
        layers=[partial(_bert_layer, layer) for layer in layers],
        inputs=[
            {
                "qkv": layer.attention.self.query,
                "mix": layer.attention.output.dense,
                "up": layer.intermediate.dense,
                "down": layer.output.dense,
            }
            for layer in layers
        ],
        head=None,
    )


def _bert_layer(layer: Any) -> Layer:
    attention = layer.attention.self
    return Layer(
        {
            "queries": matrix_of(attention.query, attention.attention_head_size**-0.5),
            "keys": matrix_of(attention.key),
            "values": matrix_of(attention.value),
            "mix": matrix_of(layer.attention.output.dense),
            "up": matrix_of(layer.intermediate.dense),
            "down": matrix_of(layer.output.dense),
        },
        {"mix": norm_of(layer.attention.output.LayerNorm), "wide": norm_of(layer.output.LayerNorm)},
    )


def _distilbert(encoder: Any) -> Architecture:
    config, embeddings, layers = encoder.config, encoder.embeddings, list(encoder.transformer.layer)
    positions = floats_of(embeddings.position_embeddings.weight)
    return Architecture(
        shape=shape_of(
            **post_norm(config.dim, config.hidden_dim, config.n_heads),
            positions=len(positions),
            activation=activation_of(layers[0].ffn.activation),
            epsilon=embeddings.LayerNorm.eps,
        ),
        words=embeddings.word_embeddings,
        tables={"positions": positions},
        norms={"words": norm_of(embeddings.LayerNorm)},
        layers=[partial(_distilbert_layer, layer) for layer in layers],
        inputs=[
            {"qkv": layer.attention.q_lin, "mix": layer.attention.out_lin, "up": layer.ffn.lin1, "down": layer.ffn.lin2}
            for layer in layers
        ],
        head=None,
    )


def _distilbert_layer(layer: Any) -> Layer:
    attention = layer.attention
    return Layer(
        {
            "queries": matrix_of(attention.q_lin, attention.attention_head_size**-0.5),
            "keys": matrix_of(attention.k_lin),
            "values": matrix_of(attention.v_lin),
            "mix": matrix_of(attention.out_lin),
            "up": matrix_of(layer.ffn.lin1),
            "down": matrix_of(layer.ffn.lin2),
        },
        {"mix": norm_of(layer.sa_layer_norm), "wide": norm_of(layer.output_layer_norm)},
    )


def _modernbert(encoder: Any) -> Architecture:
    config, layers = encoder.config, list(encoder.layers)
    local = [number for number, layer in enumerate(layers) if layer.attention_type == "sliding_attention"]
    # Either all layers are global, or all but every so many; the first one always is.
    others = [number for number in range(1, len(layers)) if number not in local]
    global_every = (others[0] if others else len(layers)) if local else 1
    require(local == [number for number in range(len(layers)) if number % global_every])
    kinds = ("full_attention", "sliding_attention") if local else ("full_attention",)
    rotary = encoder.rotary_emb
    require(all(rotary.rope_type[kind] in ROTARY for kind in kinds))
    require(all(getattr(rotary, f"{kind}_attention_scaling") == 1 for kind in kinds))
    require(not local or config.sliding_window > 0)
    return Architecture(
        shape=shape_of(
            hidden=config.hidden_size,
            wide=config.intermediate_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_attention_heads,
            dim=config.hidden_size // config.num_attention_heads,
            positions=config.max_position_embeddings,
            rotaries=len(kinds),
            window=config.sliding_window if local else 0,
            global_every=global_every,
            norms_first=1,
            gated=1,
            activation=activation_of(layers[0].mlp.act),
            epsilon=config.norm_eps,
        ),
        words=encoder.embeddings.tok_embeddings,
        tables={"frequencies": np.stack([floats_of(getattr(rotary, f"{kind}_inv_freq")) for kind in kinds])},
        norms={"words": norm_of(encoder.embeddings.norm), "last": norm_of(encoder.final_norm)},
        layers=[partial(_modernbert_layer, layer) for layer in layers],
        inputs=[
            {"qkv": layer.attn.Wqkv, "mix": layer.attn.Wo, "up": layer.mlp.Wi, "down": layer.mlp.Wo} for layer in layers
        ],
        head=None,
    )


def _modernbert_layer(layer: Any) -> Layer:
    queries, keys, values = _parts(matrix_of(layer.attn.Wqkv), 3)
    queries.weight *= np.float32(layer.attn.head_dim**-0.5)
    queries.bias *= np.float32(layer.attn.head_dim**-0.5)
    gate, up = _parts(matrix_of(layer.mlp.Wi), 2)
    matrices = {"queries": queries, "keys": keys, "values": values, "mix": matrix_of(layer.attn.Wo)}
    norms = {"wide": norm_of(layer.mlp_norm)}
    if not isinstance(layer.attn_norm, torch.nn.Identity):
        norms["mix"] = norm_of(layer.attn_norm)
    return Layer(matrices | {"gate": gate, "up": up, "down": matrix_of(layer.mlp.Wo)}, norms)


def _parts(matrix: Matrix, count: int) -> list[Matrix]:
    """Return the matrices that one is made of, one after the other."""
    weights, biases = np.split(matrix.weight, count), np.split(matrix.bias, count)
    return [Matrix(weight, bias) for weight, bias in zip(weights, biases, strict=True)]


ENCODERS: dict[str, Callable[[Any], Architecture]] = {
    "bert": _bert,
    "roberta": _bert,
    "xlm-roberta": _bert,
    "electra": _bert,
    "distilbert": _distilbert,
    "modernbert": _modernbert,
}
"""transformers' `model_type` to what reads it."""


def of_decoder(module: DecoderScore) -> Architecture:
    """Return a decoder's architecture: of Qwen's, Llama's or Gemma's kind.

    Raises:
        UnknownArchitectureError: the kernels can't compute it. So do AttributeError and others.
    """
    config, rotary, layers = module.layers.config, module.layers.rotary_emb, list(module.layers.layers)
    attention, norms_heads = layers[0].self_attn, hasattr(layers[0].self_attn, "q_norm")
    require(config.model_type in ("qwen2", "qwen3", "llama", "gemma"))
    require(rotary.rope_type in ROTARY and rotary.attention_scaling == 1 and module.window is None)
    found = Architecture(
        shape=shape_of(
            hidden=config.hidden_size,
            wide=config.intermediate_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            dim=attention.head_dim,
            positions=config.max_position_embeddings,
            rotaries=1,
            causal=int(module.causal),
            norms_first=1,
            rms=1,
            normalises_heads=int(norms_heads),
            gated=1,
            activation=activation_of(layers[0].mlp.act_fn),
            pool=POOLS.index("mean" if module.mean else "last"),
            epsilon=config.rms_norm_eps,
        ),
        words=module.layers.embed_tokens,
        tables={"frequencies": floats_of(rotary.inv_freq)[None]},
        norms={"last": rms_norm_of(module.layers.norm)},
        layers=[partial(_decoder_layer, layer) for layer in layers],
        inputs=[
            {
                "qkv": layer.self_attn.q_proj,
                "mix": layer.self_attn.o_proj,
                "up": layer.mlp.gate_proj,
                "down": layer.mlp.down_proj,
            }
            for layer in layers
        ],
        head=Head(Matrix(floats_of(module.head)[None], np.zeros(1, np.float32))),
    )
    return _checked(found)


def _decoder_layer(layer: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    gains = {}
    if hasattr(attention, "q_norm"):
        gains = {"query": rms_norm_of(attention.q_norm).gain, "key": rms_norm_of(attention.k_norm).gain}
        gains["query"] *= np.float32(attention.scaling)
    # Queries come scaled, by their matrix or by the norm that follows it.
    return Layer(
        {
            "queries": matrix_of(attention.q_proj, 1 if gains else attention.scaling),
            "keys": matrix_of(attention.k_proj),
            "values": matrix_of(attention.v_proj),
            "mix": matrix_of(attention.o_proj),
            "gate": matrix_of(mlp.gate_proj),
            "up": matrix_of(mlp.up_proj),
            "down": matrix_of(mlp.down_proj),
        },
        {"mix": rms_norm_of(layer.input_layernorm), "wide": rms_norm_of(layer.post_attention_layernorm)},
        gains,
    )


def _head(model: Any) -> tuple[str, Head]:
    """Return pool and head of one of transformers' classes."""
    kind = model.config.model_type
    if kind == "modernbert":
        head = _head_of(model.head.dense, activation_of(model.head.act), model.classifier)
        head.norm = norm_of(model.head.norm)
        return model.config.classifier_pooling, head
    if kind == "bert":
        pooler = model.base_model.pooler
        return "cls", _head_of(pooler.dense, activation_of(pooler.activation), model.classifier)
    if kind == "distilbert":
        return "cls", _head_of(model.pre_classifier, "relu", model.classifier)
    head = model.classifier
    activation = activation_of(head.activation) if kind == "electra" else "tanh"
    return "cls", _head_of(head.dense, activation, head.out_proj)


def _head_of_modules(modules: Sequence[Any], epsilon: float) -> tuple[str, Head]:
    """Return pool and head of sentence-transformers' modules: pooling, perhaps a dense layer and a norm, a row."""
    pooling, *rest, last = modules
    pool = _pool(pooling)
    require(pooling.include_prompt)
    head = _head_of(None, "identity", _dense(last, "scores").linear)
    require(activation_of(last.activation_function) == "identity" and head.out.weight.shape[0] == 1)
    if rest:
        dense, *norms = rest
        linear = _dense(dense, "sentence_embedding").linear
        head = _head_of(linear, activation_of(dense.activation_function), last.linear)
        require(dense.linear.in_features == dense.linear.out_features)
        if norms:
            (norm,) = norms
            require(type(norm).__name__ == "LayerNorm" and norm.norm.eps == epsilon)
            head.norm = norm_of(norm.norm)
    return pool, head


def _pool(module: Any) -> str:
    require(type(module).__name__ == "Pooling")
    return str(module.pooling_mode)


def _dense(module: Any, output: str) -> Any:
    """Return a dense layer, if it reads what the module before it gives, and gives what the next one reads."""
    require(type(module).__name__ == "Dense" and not module.use_residual)
    require(module.module_input_name == "sentence_embedding" and module.module_output_name == output)
    return module


def _head_of(dense: Any, activation: str, out: Any) -> Head:
    return Head(matrix_of(out), matrix_of(dense) if dense is not None else None, activation)
