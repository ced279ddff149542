"""The newest vendors' clients."""

from __future__ import annotations

import asyncio

import voyageai
from situations import client, main


@client("voyageai")
def voyage(url, key, query, documents, echo):
    reply = voyageai.Client(key, base_url=f"{url}/v1").rerank(query, documents, model="m")
    assert reply.total_tokens > 0
    return [(item.index, item.relevance_score, item.document if echo else None) for item in reply.results]


@client("voyageai, async")
def voyage_async(url, key, query, documents, echo):
    reply = asyncio.run(voyageai.AsyncClient(key, base_url=f"{url}/v1").rerank(query, documents, model="m", top_k=99))
    return [(item.index, item.relevance_score, item.document if echo else None) for item in reply.results]


@client("langchain-voyageai")
def langchain_voyage(url, key, query, documents, echo):
    from langchain_core.documents import Document
    from langchain_voyageai import VoyageAIRerank

    ranker = VoyageAIRerank(model="m", voyage_api_key=key, base_url=f"{url}/v1", top_k=len(documents))
    found = ranker.compress_documents([Document(text) for text in documents], query)
    return [
        (documents.index(each.page_content), each.metadata["relevance_score"], each.page_content if echo else None)
        for each in found
    ]


@client("mixedbread")
def mixedbread(url, key, query, documents, echo):
    from mixedbread import Mixedbread

    reply = Mixedbread(api_key=key, base_url=url, max_retries=0).rerank(
        model="m", query=query, input=documents, return_input=echo
    )
    return [(item.index, item.score, item.input if echo else None) for item in reply.data]


@client("pinecone")
def pinecone(url, key, query, documents, echo):
    from pinecone import Pinecone

    reply = Pinecone(api_key=key, host=url).inference.rerank(
        model="m", query=query, documents=documents, return_documents=echo
    )
    assert reply.usage.rerank_units == 1
    return [(item.index, item.score, item.document["text"] if echo else None) for item in reply.data]


@client("zeroentropy")
def zeroentropy(url, key, query, documents, echo):  # noqa: ARG001 - it has no echo
    from zeroentropy import ZeroEntropy

    models = ZeroEntropy(api_key=key, base_url=f"{url}/v1", max_retries=0, _strict_response_validation=True).models
    reply = models.rerank(model="m", query=query, documents=documents)
    assert reply.total_bytes > 0
    assert reply.total_tokens > 0
    top = models.rerank(model="m", query=query, documents=documents, top_n=1, latency="slow")
    assert (top.actual_latency_mode, top.results) == ("slow", reply.results[:1])
    return [(item.index, item.relevance_score, None) for item in reply.results]


@client("zeroentropy, async")
def zeroentropy_async(url, key, query, documents, echo):  # noqa: ARG001 - it has no echo
    from zeroentropy import AsyncZeroEntropy

    async def ask():
        async with AsyncZeroEntropy(api_key=key, base_url=f"{url}/v1", max_retries=0) as caller:
            return await caller.models.rerank(model="m", query=query, documents=documents, top_n=99, latency="fast")

    return [(item.index, item.relevance_score, None) for item in asyncio.run(ask()).results]


if __name__ == "__main__":
    import coheres  # noqa: F401 - registers more

    main()
