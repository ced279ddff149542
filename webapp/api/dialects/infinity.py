"""Infinity: the documents family with `document` as a string.

Source: infinity_emb 0.0.77 `fastapi_schemas/pymodels.py`; its client sends `raw_scores` always. LiteLLM's `infinity`
provider sends what its `hosted_vllm` sends, but wants strings: it has a prefix of its own. Dify's Ollama plugin wants
strings at /api/rerank.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from webapp.api.dialects import documents
from webapp.api.dialects.base import Call

PATHS = ("/rerank", "/infinity/rerank", "/api/rerank")


def _claims(call: Call) -> bool:
    return call.path.startswith(("/infinity/", "/api/")) or (call.path == "/rerank" and call.has("raw_scores"))


DIALECT = replace(
    documents.DIALECT,
    name="infinity",
    title="Infinity, Ollama",
    claims=_claims,
    dump=partial(documents.dump, echo="text"),
    paths=PATHS,
    example={**documents.DIALECT.example, "raw_scores": False},
)
