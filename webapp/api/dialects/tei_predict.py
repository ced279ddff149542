"""TEI's /predict: pairs, each with its label.

Source: TEI 1.9.3 router/src/http/{server,types}.rs. `inputs` is a text, a pair of texts, or a list of either in lists.
Our models score pairs: a text alone is scored as a query with an empty document.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from webapp.api import json_body
from webapp.api.dialects import tei
from webapp.api.dialects.base import Call, Dialect
from webapp.api.dialects.options import Options, to_request
from webapp.api.dialects.vllm_score import in_order
from webapp.domain.errors import EmptyRequestError, InvalidRequestError
from webapp.domain.types import RerankRequest, RerankResult

LABEL = "LABEL_0"
"""A reranker has one label; this is what Hugging Face's models call it."""

PAIR = 2


class PredictBody(Options, kw_only=True, frozen=True):
    """Body of POST /predict."""

    inputs: Annotated[
        str | list[str | list[str]], Meta(description="A text, a pair, or a list of [text] and [text, text].")
    ]


class Prediction(msgspec.Struct, gc=False):
    """One label of a pair."""

    score: float
    label: str


def parse(call: Call) -> list[RerankRequest]:
    """One request for each pair."""
    body = json_body.decode(call.body, PredictBody, strict=False)
    call.nested = isinstance(body.inputs, list) and any(isinstance(entry, list) for entry in body.inputs)
    if not body.inputs:
        raise EmptyRequestError("must not be empty", field="inputs")
    requests = []
    for place, entry in enumerate(_pairs(body.inputs)):
        if not 1 <= len(entry) <= PAIR:
            raise InvalidRequestError("must be one text or two", field=f"inputs[{place}]")
        query, document = (*entry, "")[:PAIR]
        if not query and not document:
            raise EmptyRequestError("must not be empty", field=f"inputs[{place}]")
        requests.append(to_request(body, query, [document]))
    return requests


def _pairs(inputs: str | list[str | list[str]]) -> list[list[str]]:
    if isinstance(inputs, str):
        return [[inputs]]
    texts = [entry for entry in inputs if isinstance(entry, str)]
    if len(texts) == len(inputs):
        return [texts]
    return [[entry] if isinstance(entry, str) else entry for entry in inputs]


def dump(results: list[RerankResult], call: Call) -> bytes:
    """A list of labels; for a batch, a list of such lists."""
    labels = [[Prediction(score, LABEL)] for score in in_order(results)]
    return msgspec.json.encode(labels if call.nested else labels[0])


DIALECT = Dialect(
    name="tei_predict",
    title="text-embeddings-inference /predict",
    claims=lambda call: call.path == "/predict",
    parse=parse,
    dump=dump,
    dump_error=tei.dump_error,
    manners="tei",
    body=PredictBody,
    reply=(list[Prediction], list[list[Prediction]]),
    error=tei.TeiError,
    paths=("/predict",),
    example={"inputs": [["how do bees find home", "Bees follow the sun."]]},
)
