"""Cohere's client, whichever version is installed."""

from __future__ import annotations

import asyncio

import cohere
from situations import client

VERSION = cohere.__version__.partition(".")[0]


@client(f"cohere {VERSION}, v1")
def cohere_v1(url, key, query, documents, echo):
    reply = cohere.Client(key, base_url=url).rerank(query=query, documents=documents, return_documents=echo)
    return [(item.index, item.relevance_score, item.document.text if echo else None) for item in reply.results]


@client(f"cohere {VERSION}, v2")
def cohere_v2(url, key, query, documents, echo):  # noqa: ARG001 - v2 has no documents in its replies
    reply = cohere.ClientV2(key, base_url=url).rerank(model="m", query=query, documents=documents)
    assert reply.meta.billed_units.search_units == 1
    return [(item.index, item.relevance_score, None) for item in reply.results]


@client(f"cohere {VERSION}, v2, async")
def cohere_v2_async(url, key, query, documents, echo):  # noqa: ARG001
    reply = asyncio.run(cohere.AsyncClientV2(key, base_url=url).rerank(model="m", query=query, documents=documents))
    return [(item.index, item.relevance_score, None) for item in reply.results]
