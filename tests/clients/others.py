"""Clients of servers that people run themselves: TEI, vLLM, Infinity, NIM, Xinference; LlamaIndex and LiteLLM."""

from __future__ import annotations

import coheres  # noqa: F401 - registers more
from situations import client, main


def nodes_of(documents):
    from llama_index.core.schema import NodeWithScore, TextNode

    return [NodeWithScore(node=TextNode(text=text, id_=str(index))) for index, text in enumerate(documents)]


def ranked_by(postprocessor, query, documents, echo):
    found = postprocessor.postprocess_nodes(nodes_of(documents), query_str=query)
    return [(int(each.node.node_id), each.score, each.node.text if echo else None) for each in found]


@client("llama-index cohere")
def llama_cohere(url, key, query, documents, echo):
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    return ranked_by(CohereRerank(api_key=key, base_url=url, model="m", top_n=99), query, documents, echo)


@client("llama-index jinaai")
def llama_jina(url, key, query, documents, echo):
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    return ranked_by(JinaRerank(api_key=key, base_url=f"{url}/v1", model="m", top_n=99), query, documents, echo)


@client("llama-index tei")
def llama_tei(url, key, query, documents, echo):
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    # Its token is sent as it is, so this one has no "Bearer".
    ranker = TextEmbeddingInference(base_url=url, auth_token=key, model_name="m", top_n=99)
    return ranked_by(ranker, query, documents, echo)


@client("llama-index voyageai")
def llama_voyage(url, key, query, documents, echo):
    from llama_index.postprocessor.voyageai_rerank import VoyageAIRerank

    ranker = VoyageAIRerank(api_key=key, model="m", top_n=99)
    ranker._client._params["base_url"] = f"{url}/v1"
    return ranked_by(ranker, query, documents, echo)


@client("llama-index nvidia")
def llama_nvidia(url, key, query, documents, echo):
    import requests
    from llama_index.postprocessor.nvidia_rerank import NVIDIARerank

    headers = {"Authorization": f"Bearer {key}"}
    served = requests.get(f"{url}/v1/models", headers=headers, timeout=30).json()
    name = served["data"][0]["id"] if "data" in served else "m"
    return ranked_by(NVIDIARerank(model=name, base_url=f"{url}/v1", api_key=key, top_n=99), query, documents, echo)


@client("llama-index dashscope")
def llama_dashscope(url, key, query, documents, echo):
    import dashscope
    from llama_index.postprocessor.dashscope_rerank import DashScopeRerank

    dashscope.base_http_api_url = f"{url}/api/v1"
    return ranked_by(DashScopeRerank(top_n=99, model="m", api_key=key), query, documents, echo)


class DashScopeError(Exception):
    """What its users raise: its client returns the error."""


def dashscope_results(reply, echo):
    if reply.status_code != 200:
        assert reply.request_id
        raise DashScopeError(f"{reply.status_code} {reply.code}: {reply.message}")
    assert reply.usage.total_tokens > 0
    return [  # its attribute `document` is None, whatever came
        (item.index, item.relevance_score, item["document"]["text"] if echo else item["document"])
        for item in reply.output.results
    ]


@client("dashscope")
def dashscope_sync(url, key, query, documents, echo):
    import dashscope

    dashscope.base_http_api_url = f"{url}/api/v1"
    top = dashscope.TextReRank.call("m", query, documents, api_key=key, top_n=1)
    reply = dashscope.TextReRank.call("m", query, documents, api_key=key, return_documents=echo or None)
    results = dashscope_results(reply, echo)
    assert [item.index for item in top.output.results] == [index for index, *_ in results[:1]]
    return results


@client("dashscope, async")
def dashscope_async(url, key, query, documents, echo):
    import asyncio

    import dashscope

    dashscope.base_http_api_url = f"{url}/api/v1"
    call = dashscope.AioTextReRank.call("m", query, documents, api_key=key, top_n=99, return_documents=echo)
    return dashscope_results(asyncio.run(call), echo)


@client("openai, dashscope's newer path")
def dashscope_by_openai(url, key, query, documents, echo):
    from openai import OpenAI

    caller = OpenAI(api_key=key, base_url=f"{url}/compatible-api/v1", max_retries=0)
    body = {"model": "m", "query": query, "documents": documents, "return_documents": echo}
    reply = caller.post("/reranks", body=body, cast_to=object)
    assert len(caller.post("/reranks", body={**body, "top_n": 1}, cast_to=object)["results"]) == 1
    return [
        (item["index"], item["relevance_score"], item["document"]["text"] if echo else None)
        for item in reply["results"]
    ]


@client("xinference-client")
def xinference(url, key, query, documents, echo):
    from xinference_client import RESTfulClient

    model = RESTfulClient(url, api_key=key).get_model("m")
    reply = model.rerank(documents, query, return_documents=echo)
    return [
        (item["index"], item["relevance_score"], item["document"]["text"] if echo else None)
        for item in reply["results"]
    ]


@client("langchain-cohere")
def langchain_cohere(url, key, query, documents, echo):
    from langchain_cohere import CohereRerank
    from langchain_core.documents import Document

    ranker = CohereRerank(cohere_api_key=key, base_url=url, model="m", top_n=len(documents))
    if echo:
        found = ranker.compress_documents([Document(text) for text in documents], query)
        return [
            (documents.index(each.page_content), each.metadata["relevance_score"], each.page_content) for each in found
        ]
    return [(item["index"], item["relevance_score"], None) for item in ranker.rerank(documents, query)]


def through_rerankers(provider, path):
    @client(f"rerankers, {provider}")
    def call(url, key, query, documents, echo):
        from rerankers.models.api_rankers import APIRanker

        ranker = APIRanker("m", key, provider, verbose=0, url=f"{url}{path}")
        found = ranker.rank(query=query, docs=documents, doc_ids=list(range(len(documents)))).results
        return [(each.document.doc_id, each.score, each.document.text if echo else None) for each in found]

    return call


for _provider, _path in {
    "cohere": "/v1/rerank",
    "jina": "/v1/rerank",
    "voyage": "/v1/rerank",
    "mixedbread.ai": "/v1/reranking",
    "pinecone": "/rerank",
    "text-embeddings-inference": "/rerank",
}.items():
    through_rerankers(_provider, _path)


def through_litellm(provider, base):
    @client(f"litellm, {provider}{base}")
    def call(url, key, query, documents, echo):
        import litellm

        litellm.suppress_debug_info = True
        reply = litellm.rerank(
            model=f"{provider}/m",
            query=query,
            documents=documents,
            api_base=f"{url}{base}",
            api_key=key,
            return_documents=echo,
            num_retries=0,
        )
        return [
            (item["index"], item["relevance_score"], (item.get("document") or {}).get("text") if echo else None)
            for item in reply.results
        ]

    return call


for _provider, _base in (
    ("cohere", ""),
    ("cohere", "/v1/rerank"),
    ("jina_ai", ""),
    ("voyage", ""),
    ("huggingface", ""),
    ("hosted_vllm", ""),
    ("infinity", "/infinity"),
    ("nvidia_nim", ""),
    ("litellm_proxy", ""),
    ("dashscope", "/compatible-api/v1"),
):
    through_litellm(_provider, _base)


if __name__ == "__main__":
    main()
