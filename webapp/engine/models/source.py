"""The original model in torch, as sentence-transformers loads it: prepare converts it, the torch engine serves it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from transformers import PreTrainedModel

from webapp.domain.errors import SetupError
from webapp.domain.types import ScoreScale
from webapp.engine.artifact import Tables
from webapp.engine.models.attention import keep_finite
from webapp.engine.models.feature_module import FeatureModule
from webapp.engine.models.layout import Layout
from webapp.engine.recipes import Recipe

ADAPTER = "lora_"
"""Part of the names of an adapter's weights, which transformers leaves out without its library."""

OF_HEADS = ("classifier.", "score.")
"""Beginnings of the names of a cross-encoder's last layers; a bi-encoder may hold some that it does not use."""

ROWS_A_BATCH = 4
"""Rows of similar length that the original computes at once: more of them are padded more, and no faster on a CPU."""

LONGEST_MAX_LENGTH_TOKENS = 100_000
"""Tokenizers without a limit of their own report 10^30."""

POSITION_TABLES = frozenset({"position_embeddings", "wpe", "embed_positions"})
"""What transformers calls tables of learned positions in encoders, in GPT-2, and in models of BART's family."""


class SourceModel:
    """A CrossEncoder or a SentenceTransformer on one device."""

    recipe: Recipe | None = None
    """A decoder's."""

    def __init__(self, layout: Layout, device: str = "cpu") -> None:
        """Load a model in float32, whatever its files hold: it is what every other precision is compared with.

        Raises:
            SetupError: something of it is missing.
        """
        self.layout = layout
        self.kind = layout.kind
        self._known: dict[tuple[str, str, str], np.float32] = {}
        """Scores that were computed: of a query, a document and an instruction."""
        if self.kind == "cross-encoder":
            self.model = cross_encoder(layout, device)
            if self.model.num_labels != 1:
                raise SetupError(f"{layout.directory} has {self.model.num_labels} labels; a reranker has one")
        else:
            self.model = SentenceTransformer(str(layout.directory), **_options(device)).eval()
        self.tokenizer = self.model.tokenizer
        check_tokenizer(layout, self.tokenizer)
        check_pads(layout, self.tokenizer)
        if "message" in getattr(self.model[0], "modality_config", ()):
            raise SetupError(
                f"{layout.directory} reads texts by a chat template, and is no decoder that reranks; name another"
                " RERANK_MODEL"
            )
        # Padding before a text moves it to other positions: its score would depend on what else is in a batch.
        self.tokenizer.padding_side = "right"
        keep_finite(self.transformer)
        # sentence-transformers must cut there, too: a tokenizer may claim more than the model has positions for.
        self.cut_at(self.max_length_tokens)

    def cut_at(self, limit_tokens: int) -> None:
        """Cut texts at a shorter limit than the model's own."""
        self.model.max_seq_length = limit_tokens

    @property
    def transformer(self) -> Any:
        """Transformers' own model; None: there is none."""
        return self.model.transformers_model

    def check(self) -> None:
        """Check what prepare must know of a model first; this loads the weights a second time.

        Raises:
            SetupError: a weight is missing, or is no number, or the tokenizer knows no words.
        """
        directory = self.layout.directory
        ids = self.tokenizer("how do bees find home by the sun", add_special_tokens=False)["input_ids"]
        if not {*ids} - {self.tokenizer.unk_token_id}:
            raise SetupError(f"the tokenizer in {self.layout.transformer} knows no English word; fetch the model again")
        for name, weight in self.model.named_parameters():
            # A sum needs no copy of a large table; that of finite weights may overflow.
            if not weight.sum().isfinite() and not weight.isfinite().all():
                raise SetupError(f"{name} of {directory} holds NaN or infinity; name another RERANK_MODEL")
        self._refuse_what_is_missing()

    def _refuse_what_is_missing(self) -> None:
        """Refuse a model some of whose weights no file holds or no layer takes, if its scores depend on them.

        transformers makes such weights up. Models often lack some that they don't use, such as BERT's pooler below mean
        vectors. Not-a-numbers in their place show which they are.
        """
        loaded = self.transformer
        if loaded is None:
            return
        config = copy.deepcopy(loaded.config)
        config.dtype = None  # that of the files: weights are mapped then, where another would be a copy of them all
        _, found = type(loaded).from_pretrained(
            str(self.layout.transformer), config=config, output_loading_info=True, local_files_only=True
        )
        missing = sorted(found["missing_keys"])
        heads = OF_HEADS if self.kind == "cross-encoder" else ()
        for name in sorted(found["unexpected_keys"]):
            if ADAPTER in name or name.startswith(heads):
                raise SetupError(
                    f"{self.layout.transformer} holds {name}, for which its {type(loaded).__name__} has no place; merge"
                    " an adapter into its base model, or name another RERANK_MODEL"
                )
        with torch.no_grad():
            for value in (float("nan"), 0.0):
                for name in missing:
                    loaded.get_parameter_or_buffer(name).fill_(value)
                if (
                    missing
                    and value
                    and not np.isfinite(self._compute([("how do bees find home", "by the sun")])).all()
                ):
                    raise SetupError(
                        f"no weight file of {self.layout.transformer} holds {missing[0]}"
                        + (f" and {len(missing) - 1} other weights" if missing[1:] else "")
                        + f" of its {type(loaded).__name__}; name another RERANK_MODEL, or fetch it again"
                    )

    @property
    def max_length_tokens(self) -> int:
        """Longest input, special tokens counted."""
        return shortest(self.model.max_seq_length, self.tokenizer.model_max_length, positions_of(self.model))

    @property
    def tables(self) -> Tables:
        """Sizes of its embedding tables."""
        modules = dict(self.model.named_modules())
        words = [_input_embeddings(each) for each in modules.values() if isinstance(each, PreTrainedModel)]
        types = [table for name, table in modules.items() if name.rpartition(".")[2] == "token_type_embeddings"]
        return Tables(_fewest_rows(words), positions_of(self.model), _fewest_rows(types))

    @property
    def prompts(self) -> tuple[str, str]:
        """Prompts that a SentenceTransformer puts before a query and before a document: the first name that is there.

        An empty prompt is one, too.
        """
        if self.kind == "cross-encoder":
            return "", ""
        named = self.model.prompts
        fallback = named.get(self.model.default_prompt_name or "", "")
        document = next((named[name] for name in ("document", "passage", "corpus") if name in named), fallback)
        return named.get("query", fallback), document

    @property
    def pools_prompts(self) -> bool:
        """Whether the tokens of a prompt count in a bi-encoder's vectors."""
        if self.kind == "cross-encoder":
            return True
        pooling = [module for module in self.model if isinstance(module, Pooling)]
        return all(module.include_prompt for module in pooling) or not any(self.prompts)

    @property
    def score_scale(self) -> ScoreScale:
        """Scale of its scores: logits, or similarities by the function that a SentenceTransformer names."""
        return "sigmoid" if self.kind == "cross-encoder" else self.model.similarity_fn_name

    @property
    def unit_vectors(self) -> bool:
        """Whether a bi-encoder compares vectors of length 1: by cosine, or because its last module makes them so."""
        return self.score_scale == "cosine" or (
            self.kind == "embedding" and isinstance(self.model[-1], Normalize) and self.model.truncate_dim is None
        )

    @property
    def reads_types(self) -> bool:
        """Whether it takes token types; without, all tokens have type 0."""
        return "token_type_ids" in self.tokenizer.model_input_names

    def module(self) -> FeatureModule:
        """Return the bare computation: token ids in, the output that scores are made of out."""
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if self.reads_types else [])]
        output = "scores" if self.kind == "cross-encoder" else "sentence_embedding"
        return FeatureModule(self.model, names, output, pools_prompts=self.pools_prompts)

    @property
    def temperature(self) -> float:
        """What a logit is divided by before it becomes a score in 0..1."""
        return self.recipe.score.temperature if self.recipe else 1.0

    @property
    def parameters(self) -> int:
        """Numbers that the model was trained to."""
        return sum(weight.numel() for weight in self.model.parameters())

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Compute references there meanwhile, in float32 as ever; on the processor if a card's memory is too small."""
        try:
            self._move(device)
        except torch.cuda.OutOfMemoryError:
            self._move(torch.device("cpu"))
        try:
            yield
        finally:
            self._move(torch.device("cpu"))
            torch.cuda.empty_cache()

    def _move(self, device: torch.device) -> None:
        self.model.to(device)

    def reference(self, pairs: Sequence[tuple[str, str]], instruction: str = "") -> NDArray[np.float32]:
        """Return the original's own scores: logits, or similarities of a bi-encoder; shape [pairs].

        Each pair is computed once, however many candidates are compared with it.

        Args:
            pairs: queries and documents.
            instruction: for a model that takes one; empty: its default.
        """
        if self.recipe and instruction == self.recipe.instruction:
            instruction = ""
        new = [pair for pair in dict.fromkeys(pairs) if (*pair, instruction) not in self._known]
        if new:
            keys = [(*pair, instruction) for pair in new]
            try:
                scores = self._compute(new, instruction)
            except torch.cuda.OutOfMemoryError:
                self._move(torch.device("cpu"))
                scores = self._compute(new, instruction)
            self._known.update(zip(keys, scores, strict=True))
        return np.array([self._known[*pair, instruction] for pair in pairs], np.float32)

    def reference_alone(self, query: str, document: str, instruction: str = "") -> float:
        """Return the original's score of a pair that shares its batch with no other."""
        return float(self._compute([(query, document)], instruction)[0])

    def tokens(self, query: str, document: str, instruction: str = "") -> list[list[int]]:
        """Return the token ids that the original reads, a list an input; nothing is computed.

        One input for a pair, or one for a query and one for a document where each becomes a vector.
        """
        del instruction  # only decoders take one
        if self.kind == "cross-encoder":
            return [tokens_of(self.transformer, lambda: predict(self.model, [(query, document)]))]
        return [
            tokens_of(self.transformer, partial(encode, [text], show_progress_bar=False))
            for encode, text in ((self.model.encode_query, query), (self.model.encode_document, document))
        ]

    def _compute(self, pairs: Sequence[tuple[str, str]], instruction: str = "") -> NDArray[np.float32]:
        del instruction  # only decoders take one
        if self.kind == "cross-encoder":
            return predict(self.model, pairs)
        queries, documents = zip(*pairs, strict=True)
        options = {"convert_to_tensor": True, "show_progress_bar": False, "batch_size": ROWS_A_BATCH}
        left = _encode_unique(partial(self.model.encode_query, **options), queries)
        right = _encode_unique(partial(self.model.encode_document, **options), documents)
        return np.asarray(self.model.similarity_pairwise(left, right).cpu().numpy(), np.float32)


def _options(device: str) -> dict[str, Any]:
    return {"device": device, "local_files_only": True, "model_kwargs": {"dtype": torch.float32}}


def cross_encoder(layout: Layout, device: str) -> CrossEncoder:
    """Return sentence-transformers' own model, which gives logits; import nothing that a file names."""
    return CrossEncoder(str(layout.directory), activation_fn=torch.nn.Identity(), **_options(device)).eval()


def predict(model: CrossEncoder, pairs: Sequence[tuple[str, str]], prompt: str | None = None) -> NDArray[np.float32]:
    """Return sentence-transformers' own logits, shape [pairs]; without a prompt, with the model's default one."""
    logits = model.predict(
        list(pairs),
        prompt=prompt,
        activation_fn=torch.nn.Identity(),
        batch_size=ROWS_A_BATCH,
        show_progress_bar=False,
    )
    return np.asarray(logits, np.float32).reshape(len(pairs))


class _ReadError(Exception):
    """A model was about to compute."""

    def __init__(self, ids: list[int]) -> None:
        super().__init__()
        self.ids = ids


def tokens_of(transformer: PreTrainedModel, compute: Callable[[], object]) -> list[int]:
    """Return the token ids that a call gives a model to compute; it is stopped before the first layer."""

    def stop(_module: torch.nn.Module, given: tuple[Any, ...]) -> None:
        raise _ReadError(given[0].flatten().tolist())

    # sentence-transformers may call `forward` of the model itself, where no hook runs. T5's layers hold its table of
    # words a second time, and read that one.
    table = transformer.get_input_embeddings().weight
    readers = [module for module in transformer.modules() if getattr(module, "weight", None) is table]
    hooks = [module.register_forward_pre_hook(stop) for module in readers]
    try:
        compute()
    except _ReadError as read:
        return read.ids
    finally:
        for hook in hooks:
            hook.remove()
    raise SetupError(f"{type(transformer).__name__} computes in a way that prepare can't follow")


def check_tokenizer(layout: Layout, tokenizer: Any) -> None:
    """Refuse a tokenizer that has no file for the `tokenizers` library, which serves, or that is set up otherwise.

    Raises:
        SetupError: it says why.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise SetupError(f"{layout.directory} has no fast tokenizer (tokenizer.json); name another RERANK_MODEL")
    if tokenizer.split_special_tokens:  # even those of the model's own template
        raise SetupError(
            f"{layout.transformer / 'tokenizer_config.json'} says split_special_tokens, with which names of special"
            " tokens are text; set it to false"
        )


def check_pads(layout: Layout, tokenizer: Any) -> None:
    """Refuse a tokenizer that can't pad: sentence-transformers makes no batch with it.

    Raises:
        SetupError: it names no token to pad with.
    """
    if tokenizer.pad_token is None:
        raise SetupError(
            f"the tokenizer in {layout.transformer} names no pad_token, without which sentence-transformers can't"
            " score; name one in its tokenizer_config.json"
        )


def shortest(*limits: int | None) -> int:
    """Return the least of some lengths in tokens; None, 0 and -1 stand for no limit."""
    return int(min(limit for limit in [*limits, LONGEST_MAX_LENGTH_TOKENS] if limit and limit > 0))


def positions_of(model: Any) -> int | None:
    """Return how many tokens a model's position tables hold; None where positions are relative or rotary."""
    held = []
    for name, table in model.named_modules():
        if name.rpartition(".")[2] in POSITION_TABLES and getattr(table, "weight", None) is not None:
            padding = getattr(table, "padding_idx", None)
            # RoBERTa's family counts from one past the padding's row, BART's from `offset`.
            first = getattr(table, "offset", 0) if padding is None else padding + 1
            held.append(len(table.weight) - first)
    return min(held, default=None)


def _input_embeddings(model: PreTrainedModel) -> Any:
    try:
        return model.get_input_embeddings()
    except NotImplementedError:
        return None


def _fewest_rows(tables: Sequence[Any]) -> int | None:
    weights = [getattr(table, "weight", None) for table in tables]
    return min((len(weight) for weight in weights if weight is not None), default=None)


def _encode_unique(encode: Callable[[list[str]], Any], texts: Sequence[str]) -> Any:
    """Return vectors, shape [texts, width]; equal texts are computed once."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return encode(list(places))[[places[text] for text in texts]]
