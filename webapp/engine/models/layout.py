"""What a model's directory holds, by its own files: nothing is loaded, and no code that lies in it runs.

What a model is stands in sentence-transformers' files (`config_sentence_transformers.json`, `modules.json`). Only
without them does the architecture in `config.json` count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from webapp.domain.errors import SetupError
from webapp.engine.models.files import check_files, no_weights, read_json, refuse_pointer
from webapp.engine.recipes import Recipe, known_recipes, told_recipes

Kind = Literal["cross-encoder", "embedding"]

KINDS: Mapping[str, Kind] = {"CrossEncoder": "cross-encoder", "SentenceTransformer": "embedding"}
"""sentence-transformers' classes, as its files name them, that are served; others are refused by name."""

CLASSES_OF_MODULES = {
    "sparse_encoder": "SparseEncoder",
    "multi_vector_encoder": "MultiVectorEncoder",
    "cross_encoder": "CrossEncoder",
}
"""Packages of sentence-transformers' modules that one class alone uses."""

TWO_WAYS = frozenset({"Router", "Asym"})
"""Modules of sentence-transformers that treat queries and documents differently; the second is an older name."""

SAME_AS_CODE = frozenset({"llama_bidirec"})
"""`model_type` of models whose own code computes what `decoder_source` does without it: the mean of all tokens."""

BY_LENGTH = frozenset({"longrope", "su", "dynamic"})
"""Kinds of rotary positions that are others for a long text, and so for all that share a batch with it."""

ACTIVATIONS = ("Identity", "Sigmoid", "Tanh")
"""Activations of torch that keep the order of logits, and so change no ranking."""

TOKENIZER_FILES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "sentencepiece.bpe.model", "spiece.model"),
    *("spm.model", "bpe.codes"),
)
"""Files of which a tokenizer has one at least. Without any, transformers makes an empty one, and says nothing."""

SENTENCEPIECE_FILES = frozenset({"tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "spm.model"})
"""Those of them that only the sentencepiece library reads."""

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of weights; with `.index.json` it is a list of files that hold them together."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What lies in a model's directory."""

    directory: Path
    kind: Kind
    modules: bool
    """Whether `modules.json` lists its parts; without, transformers loads it as what its architecture says."""
    transformer: Path
    """Where its transformer and tokenizer lie."""
    config: Mapping[str, Any]
    """The transformer's config.json; empty without a transformer."""
    activation: str
    """What the model itself puts its logits through, one of `ACTIVATIONS`; a bi-encoder's is Identity."""
    recipe: Recipe | None = None
    """The recipe of a decoder; None: it is no decoder, or sentence-transformers' files have its words."""

    @property
    def architecture(self) -> str:
        """Return the class of transformers that the weights belong to; empty: none is named."""
        return _architecture(self.config)


def read_layout(directory: Path, model: str = "", recipe: Recipe | None = None) -> Layout:
    """Return what a directory holds.

    Args:
        directory: of the model.
        model: its id, where it came from the hub: it may tell the family of a decoder.
        recipe: the decoder's, where the operator or an artifact names it.

    Raises:
        SetupError: it is no reranker, a file of it is missing or not whole, or it needs code of its own.
    """
    named = read_json(directory / "config_sentence_transformers.json")
    listed = _read_modules(directory)
    transformer = _transformer(directory, listed)
    config = read_json(transformer / "config.json")
    if not config and not listed:
        raise SetupError(
            f"{directory} holds no config.json; RERANK_MODEL must name a CrossEncoder or SentenceTransformer"
        )
    if not listed and (_needs_recipe(config) or recipe is not None):
        recipe = _recipe(directory, model, config, recipe)
        kind: Kind = "cross-encoder"
    else:
        recipe, kind = None, _kind(directory, named, listed, config)
    _refuse_code(directory, listed, config, transformer)
    _refuse_computation(directory, listed, config)
    if kind == "cross-encoder" and not listed:
        _refuse_labels(directory, config)
    check_files(directory)
    if config:
        if not any((transformer / (name + index)).exists() for name in WEIGHT_FILES for index in ("", ".index.json")):
            raise no_weights(transformer)
        if not any((transformer / name).exists() for name in TOKENIZER_FILES):
            some = ", ".join(TOKENIZER_FILES[:2])
            raise SetupError(f"{transformer} holds no tokenizer ({some}, ...); fetch the model again")
        _refuse_sentencepiece(transformer)
    activation = _activation(directory, named, config) if kind == "cross-encoder" else "Identity"
    return Layout(directory, kind, bool(listed), transformer, config, activation, recipe)


def _architecture(config: Mapping[str, Any]) -> str:
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def _needs_recipe(config: Mapping[str, Any]) -> bool:
    """Return whether a model without sentence-transformers' files is a decoder, which reads a pair among words."""
    architecture = _architecture(config)
    of_recipes = {name for recipe in known_recipes() for name in recipe.architectures}
    return architecture.endswith("ForCausalLM") or architecture in of_recipes


def _recipe(directory: Path, model: str, config: Mapping[str, Any], named: Recipe | None) -> Recipe:
    """Return the recipe of a decoder, by the operator's word, its names or its chat template.

    Never by its architecture alone, which rerankers share with chat models.
    """
    architecture = _architecture(config)
    if named is not None:
        if architecture not in named.architectures:
            raise SetupError(
                f"RERANK_RECIPE: {named.name} is for {', '.join(named.architectures)}, {directory} is {architecture}"
            )
        return named
    told = told_recipes((model, str(config.get("_name_or_path", ""))), _chat_template(directory))
    fitting = [recipe for recipe in told if architecture in recipe.architectures]
    if len(fitting) == 1:
        return fitting[0]
    possible = [recipe.name for recipe in known_recipes() if architecture in recipe.architectures]
    which = f"name one by RERANK_RECIPE: {', '.join(possible)}" if possible else "no recipe is for it"
    raise SetupError(
        f"{directory} is {architecture}, and nothing in it says that it is a reranker, or which; if it is one, {which}"
    )


def _chat_template(directory: Path) -> str:
    """Return the text of a model's chat templates; empty: it has none."""
    texts = [str(read_json(directory / "tokenizer_config.json").get("chat_template") or "")]
    texts += [path.read_text(errors="replace") for path in sorted(directory.glob("chat_template*")) if path.is_file()]
    return "\n".join(texts)


def _read_modules(directory: Path) -> list[Mapping[str, Any]]:
    """Return the entries of modules.json; none without it."""
    path = directory / "modules.json"
    if not path.is_file():
        return []
    text = path.read_bytes()
    refuse_pointer(path, text)
    try:
        listed = sorted(json.loads(text), key=lambda entry: int(entry["idx"]))
        if not listed or not all(isinstance(entry["type"] + entry["path"], str) for entry in listed):
            raise ValueError("it lists no modules")  # noqa: TRY301
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise SetupError(
            f"{path} is no list of sentence-transformers' modules ({error}); fetch the model again"
        ) from error
    return listed


def _transformer(directory: Path, listed: Sequence[Mapping[str, Any]]) -> Path:
    """Return where the transformer lies: in the folder of the first module, or beside modules.json."""
    first = directory / listed[0]["path"] if listed else directory
    if not first.resolve().is_relative_to(directory.resolve()):
        raise SetupError(f"{directory / 'modules.json'} names a path outside of the model's directory")
    return first


def _kind(
    directory: Path, named: Mapping[str, Any], listed: Sequence[Mapping[str, Any]], config: Mapping[str, Any]
) -> Kind:
    """Return the kind of a model, by sentence-transformers' files first.

    sentence-transformers itself only warns when it loads one of its classes as another, and the scores are wrong.
    """
    model_type = str(named.get("model_type") or _class_of(listed))
    if model_type:
        if model_type not in KINDS:
            raise SetupError(
                f"{directory} is a {model_type}; of sentence-transformers' classes these are served: {', '.join(KINDS)}"
            )
        return KINDS[model_type]
    architecture = _architecture(config)
    if architecture.endswith("ForSequenceClassification"):
        return "cross-encoder"
    raise SetupError(
        f"{directory} is {architecture or 'nameless'}, not a CrossEncoder or SentenceTransformer; see RERANK_MODEL"
    )


def _class_of(listed: Sequence[Mapping[str, Any]]) -> str:
    """Return the class that modules belong to where no file names it, as files of older versions; empty: no modules."""
    for package, name in CLASSES_OF_MODULES.items():
        if any(f".{package}." in entry["type"] for entry in listed):
            return name
    return "SentenceTransformer" if listed else ""


def _refuse_code(
    directory: Path, listed: Sequence[Mapping[str, Any]], config: Mapping[str, Any], transformer: Path
) -> None:
    """Refuse a model that needs code from its directory.

    transformers would take a class of its own of the same name without a word, and that computes something else.
    """
    for entry in listed:
        if not entry["type"].startswith("sentence_transformers."):
            raise SetupError(
                f"{directory / 'modules.json'} names {entry['type']}, code that is not sentence-transformers';"
                " code of a model is never run: name another RERANK_MODEL"
            )
    _refuse_modules(directory, [entry["type"].rpartition(".")[2] for entry in listed])
    for file, found in (("config.json", config), ("tokenizer_config.json", None)):
        contents = read_json(transformer / file) if found is None else found
        if (named := contents.get("auto_map")) and (found is None or config.get("model_type") not in SAME_AS_CODE):
            code = next(iter(named.values())) if isinstance(named, dict) else named
            raise SetupError(
                f"{transformer / file} names code of the model's own ({_first(code)}); code of a model is never run:"
                " name another RERANK_MODEL"
            )
    if quantized := config.get("quantization_config"):
        method = quantized.get("quant_method", "") if isinstance(quantized, dict) else quantized
        raise SetupError(
            f"{directory} holds weights that are quantized ({method}); name the model that it was made of, which"
            " prepare quantizes by itself"
        )
    if (directory / "adapter_config.json").is_file() and not any(
        (transformer / name).exists() for name in WEIGHT_FILES
    ):
        raise SetupError(
            f"{directory} is an adapter (PEFT), no whole model; merge it into its base model, and name that"
        )


def _refuse_modules(directory: Path, names: Sequence[str]) -> None:
    """Refuse modules that read no transformer's tokens, or are others for queries than for documents."""
    unlike = [name for name in names if name in TWO_WAYS] or [name for name in names[:1] if name != "Transformer"]
    if unlike:
        raise SetupError(
            f"{directory / 'modules.json'} names {unlike[0]}; served are models that begin with a Transformer, the same"
            " one for queries and documents: name another RERANK_MODEL"
        )


def _refuse_computation(directory: Path, listed: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> None:
    """Refuse what would be computed in another way than the model's makers do."""
    if config.get("model_type") in SAME_AS_CODE and config.get("pooling", "avg") != "avg":
        raise SetupError(
            f"{directory} pools tokens by {str(config['pooling'])[:40]}, which its own code does and we don't:"
            " name another RERANK_MODEL"
        )
    if config.get("model_type") in SAME_AS_CODE and config.get("temperature") not in (None, 1):
        raise SetupError(
            f"{directory} divides its scores by {str(config['temperature'])[:40]}, which its own code does and we"
            " don't: name another RERANK_MODEL"
        )
    if (positions := config.get("position_embedding_type")) not in (None, "absolute"):
        raise SetupError(
            f"{directory} has positions of the kind {str(positions)[:40]}, which transformers no longer computes: name"
            " another RERANK_MODEL"
        )
    for entry in listed:
        file = directory / entry["path"] / "config.json"
        activation = read_json(file).get("activation_function") if entry["type"].endswith(".Dense") else None
        if isinstance(activation, str) and not activation.startswith("torch."):
            raise SetupError(
                f"{file} names the activation {activation[:100]}, which sentence-transformers leaves out unless code of"
                " a model may run: name another RERANK_MODEL"
            )
    for named in (config.get("rope_scaling"), config.get("rope_parameters")):
        if not isinstance(named, dict):
            continue
        for each in (named, *(value for value in named.values() if isinstance(value, dict))):
            if (kind := str(each.get("rope_type", each.get("type")))) in BY_LENGTH:
                raise SetupError(
                    f"{directory} has rotary positions of the kind {kind}, with which a long text changes the scores of"
                    " others: name another RERANK_MODEL"
                )


def _first(code: Any) -> Any:
    """Return the first name of an entry of auto_map: a tokenizer's is a list of two."""
    return next((name for name in code if name), code) if isinstance(code, list) else code


def _refuse_labels(directory: Path, config: Mapping[str, Any]) -> None:
    """Refuse a classifier with more labels than one, where its configuration says how many it has."""
    labels = config.get("num_labels") or len(config.get("id2label") or ())
    if labels not in (0, 1):
        names = config.get("id2label")
        which = f" ({', '.join(map(str, names.values()))})" if isinstance(names, dict) else ""
        raise SetupError(f"{directory} has {labels} labels{which[:100]}; a reranker has one: name another RERANK_MODEL")


def _activation(directory: Path, named: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return what a cross-encoder puts its logits through, as sentence-transformers looks it up.

    Only the last part of its name is read: nothing is imported.
    """
    of_config = config.get("sentence_transformers")
    path = (
        named.get("activation_fn")
        or (of_config.get("activation_fn") if isinstance(of_config, dict) else None)
        or config.get("sbert_ce_default_activation_function")
        or "torch.nn.modules.activation.Sigmoid"
    )
    package, _, name = str(path).rpartition(".")
    if name not in ACTIVATIONS or package.split(".")[0] != "torch":
        raise SetupError(
            f"{directory} names the activation {path}; served are torch's {', '.join(ACTIVATIONS)}, for others may"
            " change the order of scores: name another RERANK_MODEL"
        )
    return name


def _refuse_sentencepiece(directory: Path) -> None:
    """Refuse a tokenizer that only the sentencepiece library reads, where that is not installed."""
    name = next(name for name in TOKENIZER_FILES if (directory / name).exists())
    if name in SENTENCEPIECE_FILES and find_spec("sentencepiece") is None:
        raise SetupError(
            f"{directory / name} is the only tokenizer there, and sentencepiece, which reads it, is not installed; run:"
            " pip install sentencepiece, or name a model with a tokenizer.json"
        )
