"""Cohere v2, and vLLM's route of the same name: the documents family without Voyage's list.

Source: cohere 7.3.1 `v2/raw_client.py`, docs.cohere.com/reference/rerank. Cohere refuses unknown fields, we ignore
them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from webapp.api.dialects import documents

DIALECT = replace(
    documents.DIALECT,
    name="cohere_v2",
    title="Cohere v2, vLLM",
    claims=lambda call: call.path == "/v2/rerank",
    dump=partial(documents.dump, data=False, version="2"),
    paths=("/v2/rerank",),
)
