"""Haystack's integrations."""

from __future__ import annotations

from haystack import Document
from haystack.utils import Secret
from situations import client, main


@client("haystack, jina")
def haystack_jina(url, key, query, documents, echo):
    from haystack_integrations.components.rankers.jina import JinaRanker

    ranker = JinaRanker(model="m", api_key=Secret.from_token(key), base_url=f"{url}/v1/rerank")
    found = ranker.run(query=query, documents=[Document(content=text) for text in documents])["documents"]
    return [(documents.index(each.content), each.score, each.content if echo else None) for each in found]


@client("haystack, cohere")
def haystack_cohere(url, key, query, documents, echo):
    from haystack_integrations.components.rankers.cohere import CohereRanker

    ranker = CohereRanker(model="m", api_key=Secret.from_token(key), api_base_url=url, top_k=len(documents))
    found = ranker.run(query=query, documents=[Document(content=text) for text in documents])["documents"]
    return [(documents.index(each.content), each.score, each.content if echo else None) for each in found]


@client("haystack, TEI")
def haystack_tei(url, key, query, documents, echo):
    from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker

    ranker = HuggingFaceTEIRanker(url=url, token=Secret.from_token(key), max_retries=0)
    found = ranker.run(query=query, documents=[Document(content=text) for text in documents])["documents"]
    return [(documents.index(each.content), each.score, each.content if echo else None) for each in found]


@client("haystack, nvidia")
def haystack_nvidia(url, key, query, documents, echo):
    from haystack_integrations.components.rankers.nvidia import NvidiaRanker

    ranker = NvidiaRanker(model="m", api_url=f"{url}/v1", api_key=Secret.from_token(key), top_k=len(documents))
    ranker.warm_up()
    found = ranker.run(query=query, documents=[Document(content=text) for text in documents])["documents"]
    return [(documents.index(each.content), each.score, each.content if echo else None) for each in found]


if __name__ == "__main__":
    main()
