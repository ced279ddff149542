"""A family of models, its layouts, and how each is compared with its reference."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.domain.ranking import to_scores
from webapp.engine.artifact import Manifest
from webapp.engine.base import Engine, encode_pair, score_pair
from webapp.engine.loader import load_engine
from webapp.engine.models.formulas import FORMULAS
from webapp.engine.prepare import gate, pipeline
from webapp.engine.runtimes.native import library
from webapp.engine.runtimes.openvino import NO_BF16, has_bf16

TORCH, OPENVINO, OPENVINO_INT8, NATIVE = "torch fp32", "openvino fp32", "openvino int8", "native int8"
TORCH_BF16, OPENVINO_BF16 = "torch bf16", "openvino bf16"
FLOATS = (TORCH, OPENVINO)
WITHOUT_INT8 = (TORCH, TORCH_BF16, OPENVINO, OPENVINO_BF16)
DECODER = (*WITHOUT_INT8, NATIVE)
ENCODER = (*WITHOUT_INT8, OPENVINO_INT8)
BERT = (*ENCODER, NATIVE)
ONE_LAYOUT = frozenset({TORCH_BF16, OPENVINO_BF16, OPENVINO_INT8})
"""Of these one layout a family is enough: each is made of the same module as a float32 one, and int8 takes longest."""

LARGEST_ERROR = 1e-5
"""Of raw scores in float32, as a share of the larger of 1 and the largest of the reference's raw scores."""

LARGEST_ROUNDED_ERROR = {NATIVE: 0.1, OPENVINO_INT8: 0.5, TORCH_BF16: 0.1, OPENVINO_BF16: 0.1}
"""Of scores in 0..1. Random weights are no judge of int8: what serves is judged by the gate, on the model itself."""

OPEN_GATE = {"gate_max_score_error": 1, "gate_mean_score_error": 1, "gate_min_tau": -1, "gate_min_top10_overlap": 0}

LONG = "train leaves at midnight " * 400
SPECIAL = "a [SEP] b </s> c <|im_end|> d <eos> e [CLS]"
"""Names of special tokens, as text of a document."""

QUERIES = ("how do bees find home", "駅 🐝 über naïve")
DOCUMENTS = (
    "bees find home by the sun",
    "milk stays fresh cold",
    "",
    " \t\n",
    "the hive dance shows flowers far near " * 9,
    LONG,
    "привет мир 駅 東京 نعم 🐝 e\u0301",
    "A" * 300,
    "paper was paid late",
    "corner post office walk five minutes " * 3,
    SPECIAL,
)

ROWS_A_BATCH = 4


@dataclass(frozen=True, eq=False)
class Family:
    """A row of docs/models.md."""

    title: str
    examples: str
    """Published models, by name."""
    recognised: str
    engines: tuple[str, ...]
    """Engines and precisions that serve it: one cell to change."""
    reference: str
    """`CrossEncoder` or `SentenceTransformer` of sentence-transformers, or a recipe, whose vendor's formula it is."""
    note: str = ""


@dataclass(frozen=True, eq=False)
class Case:
    """A layout or a variant of a family."""

    family: str
    name: str
    build: Callable[[Path], Path]
    engines: tuple[str, ...] | None = None
    """Where other engines serve it than the family; None: the same."""
    tokens: int | None = None
    """Longest input that it must be served with; None: it does not matter."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings."""
    left_out: tuple[str, ...] = ()
    """Documents that its reference reads in another way, on purpose."""


@dataclass(frozen=True, eq=False)
class Refusal:
    """A model that is refused."""

    what: str
    examples: str
    build: Callable[[Path], Path]
    words: str
    """Part of the message."""
    options: Mapping[str, Any] = field(default_factory=dict)


class Workshop:
    """Builds each model once, and prepares it once for an engine."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.examples = place / "examples.jsonl"
        texts = [[text[:300] for text in small_models.texts(12, seed=n)[9:]] for n in range(6)]
        lines = [{"query": f"question {n} of bees", "documents": documents} for n, documents in enumerate(texts)]
        self.examples.write_text("\n".join(map(json.dumps, lines)))
        self.build = functools.cache(self._build)
        self.prepare = functools.cache(self._prepare)
        self.reference = functools.cache(self._reference)

    def _build(self, build: Callable[[Path], Path]) -> Path:
        place = self._place / f"models-{len(list(self._place.iterdir()))}"
        place.mkdir()
        return build(place / "model")

    def _prepare(self, build: Callable[[Path], Path], engine: str, **options: Any) -> tuple[Settings, Manifest]:
        name, precision = engine.split()
        settings = Settings(
            model=str(self.build(build)),
            state_dir=self._place / "state",
            engine=name,
            precision=precision,
            **({} if precision == "fp32" else OPEN_GATE),
            **options,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gate, "LARGEST_16_BIT_SCORE_ERROR", 1)
            manifest = pipeline.prepare(settings, lambda _: None, calibration_data=self.examples)
        return settings, manifest

    def _reference(self, case: Case, reference: str, tokens: int) -> np.ndarray:
        return np.array(REFERENCES.get(reference, by_formula)(self.build(case.build), reference, pairs(case), tokens))

    def refusal(self, refused: Refusal) -> str:
        """Return the message, with MODEL in place of the directory."""
        with pytest.raises(SetupError) as raised:
            self.prepare(refused.build, TORCH, **refused.options)
        place = self._place.resolve()
        message = str(raised.value).replace(str(self.build(refused.build)), "MODEL")
        assert str(place) not in message, "another path is named"
        return message


def pairs(case: Case) -> list[tuple[str, str]]:
    return [(query, document) for query in QUERIES for document in DOCUMENTS if document not in case.left_out]


def by_cross_encoder(directory: Path, _: str, asked: Sequence[tuple[str, str]], tokens: int) -> Any:
    model = CrossEncoder(
        str(directory), local_files_only=True, device="cpu", model_kwargs={"dtype": torch.float32}
    ).eval()
    model.max_seq_length = tokens
    scores = model.predict(list(asked), activation_fn=torch.nn.Identity(), batch_size=1, show_progress_bar=False)
    return scores.reshape(len(asked))


def by_sentence_transformer(directory: Path, _: str, asked: Sequence[tuple[str, str]], tokens: int) -> Any:
    model = SentenceTransformer(
        str(directory), local_files_only=True, device="cpu", model_kwargs={"dtype": torch.float32}
    ).eval()
    model.max_seq_length = tokens
    queries, documents = zip(*asked, strict=True)
    options = {"batch_size": 1, "convert_to_tensor": True, "show_progress_bar": False}
    left, right = model.encode_query(list(queries), **options), model.encode_document(list(documents), **options)
    return model.similarity_pairwise(left, right).numpy()


def by_formula(
    directory: Path, recipe: str, asked: Sequence[tuple[str, str]], tokens: int, instruction: str = ""
) -> Any:
    model, score = load_vendor_s(directory, recipe)
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    with torch.inference_mode():
        return [
            float(
                score(model, tokenizer, torch.tensor([FORMULAS[recipe].tokens(tokenizer, *pair, instruction, tokens)]))
            )
            for pair in asked
        ]


def load_vendor_s(directory: Path, recipe: str) -> tuple[Any, Any]:
    """Return transformers' model, loaded without anything of the engine's, and what its score is."""
    config = json.loads((directory / "config.json").read_text())
    options: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True}
    of_labels = config["architectures"][0].endswith("ForSequenceClassification")
    if recipe != "llama-nemotron-rerank":
        loader = AutoModelForSequenceClassification if of_labels else AutoModelForCausalLM
        return loader.from_pretrained(directory, **options).eval(), FORMULAS[recipe].score
    from transformers import LlamaForSequenceClassification

    config = LlamaConfig.from_dict({**config, "model_type": "llama", "num_labels": 1})
    return LlamaForSequenceClassification.from_pretrained(directory, config=config, **options).eval(), mean_of_all


def mean_of_all(model: Any, _: Any, ids: torch.Tensor) -> Any:
    """Nemotron's score: every token attends to every other, and the mean of all is scored."""
    length = ids.shape[1]
    everyone = torch.zeros(1, 1, length, length)  # is added to what attends
    outputs = model.model(input_ids=ids, attention_mask=everyone, use_cache=False).last_hidden_state
    return model.score(outputs.mean(dim=1))[0, 0]


REFERENCES: dict[str, Callable[..., Any]] = {
    "CrossEncoder": by_cross_encoder,
    "SentenceTransformer": by_sentence_transformer,
}


def compare(workshop: Workshop, case: Case, family: Family, engine: str) -> None:
    """Assert that an engine gives the reference's scores, alone and in company, and so its order."""
    if engine == NATIVE and library() is None:
        pytest.skip("the native engine is not built here")
    if engine == OPENVINO_BF16 and not has_bf16():
        pytest.skip("this processor has no bf16 instructions")
    torch.set_num_threads(1)
    try:
        settings, manifest = workshop.prepare(case.build, engine, **case.options)
    except SetupError as error:
        if engine == OPENVINO_BF16 and NO_BF16 in str(error):
            pytest.skip(NO_BF16)
        raise
    assert case.tokens in {None, manifest.max_length_tokens}
    right = workshop.reference(case, family.reference, manifest.max_length_tokens)
    assert np.unique(right.round(4)).size > len(right) // 2, "a model that says the same of everything proves nothing"
    served = load_engine(settings)
    served.start(1)
    alone, together = scores(served, pairs(case))
    if engine in LARGEST_ROUNDED_ERROR:
        scale = manifest.score_scale
        assert np.isfinite(alone).all()
        assert np.abs(together - alone).max() <= LARGEST_ROUNDED_ERROR[engine] * max(1.0, float(np.abs(right).max()))
        if scale in {"sigmoid", "cosine"}:
            ours, theirs = (to_scores(raw, scale, raw=False) for raw in (alone, right))
            assert np.abs(ours - theirs).mean() <= LARGEST_ROUNDED_ERROR[engine]
        if engine == NATIVE:
            assert (together == alone).all()
        return
    largest = LARGEST_ERROR * max(1.0, float(np.abs(right).max()))
    for compared, with_what in ((alone, right), (together, alone), (together, right)):
        assert np.abs(compared - with_what).max() <= largest, f"by {np.abs(compared - with_what).max():.2g}"
    for at in range(0, len(right), len(right) // len(QUERIES)):
        group = slice(at, at + len(right) // len(QUERIES))
        in_our_order = right[group][np.argsort(-together[group], kind="stable")]
        assert (np.diff(in_our_order) <= 2 * largest).all(), "ranked in another order"


def scores(served: Engine, asked: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Return raw scores of each pair alone, and in batches with others in any order."""
    session = served.open_session()
    alone = np.array([score_pair(session, *pair) for pair in asked], np.float32)
    order = random.Random(0).sample(range(len(asked)), len(asked))
    together = np.zeros_like(alone)
    for at in range(0, len(order), ROWS_A_BATCH):
        taken = order[at : at + ROWS_A_BATCH]
        rows = [encode_pair(session, *asked[place]) for place in taken]
        together[taken] = session.score([(query, ids) for query, ids, _ in rows], max(length for *_, length in rows))
    return alone, together


def parameters(families: Mapping[str, Family], quick: Sequence[Case], others: Sequence[Case]) -> list[Any]:
    """Return the parameters of a test: each case on each of its engines; only `quick` ones run in scripts/test."""
    return [
        pytest.param(
            case,
            engine,
            id=f"{case.family}, {case.name}, {engine}",
            marks=[] if case in quick and engine not in ONE_LAYOUT else pytest.mark.models,
        )
        for case in [*quick, *others]
        for engine in case.engines or families[case.family].engines
        if case in quick or engine not in ONE_LAYOUT
    ]
