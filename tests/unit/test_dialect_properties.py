"""What holds for every dialect, whatever is sent."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.api.dialects.base import Call
from webapp.api.dialects.registry import DIALECTS, dialect_of
from webapp.api.errors import COLUMN, STATUS
from webapp.domain.errors import InvalidRequestError
from webapp.domain.types import RerankResult

texts = st.text(max_size=20)
words = texts.filter(str.strip)
options = st.fixed_dictionaries(
    {},
    optional={
        "model": st.none() | texts,
        "max_tokens_per_doc": st.none() | st.integers(0, 10**12),
        "max_chunks_per_doc": st.none() | st.integers(0, 10**6),
        "overlap_tokens": st.none() | st.integers(0, 100),
        "truncate": st.none() | st.booleans() | st.sampled_from(["NONE", "END", "START", "true"]),
        "truncate_prompt_tokens": st.none() | st.integers(-1, 10**6),
        "truncation_side": st.none() | st.sampled_from(["left", "right", "Left"]),
        "raw_scores": st.none() | st.booleans() | st.sampled_from(["true", "false"]),
        "use_activation": st.none() | st.booleans(),
        "priority": st.none() | st.integers(),
        "instruction": st.none() | texts,
        "top_n": st.none() | st.integers(0, 100),
        "top_k": st.none() | st.integers(0, 100),
        "unheard_of": st.none() | texts | st.lists(st.integers()),
    },
)
flags = st.none() | st.booleans() | st.sampled_from(["true", "False"])
objects = st.dictionaries(
    st.sampled_from(["text", "title", "id"]), texts | st.integers() | st.none() | st.lists(texts), max_size=3
)
documents = texts | st.lists(texts | objects, min_size=1, max_size=5)
queries = words | st.fixed_dictionaries({"text": words})


def fields(**own):
    return st.builds(lambda some, mine: {**some, **mine}, options, st.fixed_dictionaries(own))


SPECIFIED = {
    "native": fields(
        query=words,
        documents=st.lists(
            st.fixed_dictionaries({"content": texts, "metadata": st.none() | st.just({"a": 1})}), min_size=1
        ),
        top_k=st.none() | st.integers(0, 9),
        raw_scores=st.none() | st.booleans(),
        use_activation=st.none(),
        truncate=st.none(),
    ),
    "documents": fields(
        query=queries, documents=documents, return_documents=flags, rank_fields=st.none() | st.just(["title"])
    ),
    "cohere_v2": fields(query=words, documents=documents),
    "voyage": fields(
        query=words, documents=st.lists(texts, min_size=1), truncation=st.booleans(), return_documents=flags
    ),
    "infinity": fields(query=words, documents=st.lists(texts, min_size=1), return_documents=flags),
    "tei": fields(query=texts, texts=st.lists(words, min_size=1), return_text=flags),
    "tei_predict": st.fixed_dictionaries(
        {
            "inputs": words
            | st.lists(words, min_size=1, max_size=2)
            | st.lists(st.lists(words, min_size=1, max_size=2), min_size=1)
        }
    ),
    "nim": fields(query=queries, passages=st.lists(st.fixed_dictionaries({"text": texts}), min_size=1)),
    "mixedbread": fields(query=words, input=documents, return_input=flags),
    "pinecone": fields(
        query=words, documents=st.lists(objects, min_size=1), parameters=st.none() | st.just({"truncate": "END"})
    ),
    "weaviate": fields(query=words, documents=st.lists(texts, min_size=1), property=texts),
    "librechat": fields(query=words, candidates=st.lists(objects, min_size=1)),
    "vllm_score": fields(text_1=texts, text_2=documents),
    "dashscope": fields(
        input=st.fixed_dictionaries({"query": queries, "documents": documents}),
        parameters=st.none() | options,
        return_documents=flags,
        instruct=st.none() | texts,
    ),
    "dashscope_compatible": fields(
        query=queries, documents=documents, return_documents=flags, instruct=st.none() | texts
    ),
    "zeroentropy": fields(query=words, documents=documents, latency=st.none() | st.sampled_from(["fast", "slow"])),
}

PATHS = {"documents": "/v1/rerank", "infinity": "/infinity/rerank"}
"""Where a dialect's first path is not enough to tell it."""


def score(request):
    """What the service makes of a request."""
    order = list(range(len(request.documents)))[: request.top_n]
    return RerankResult(
        request=request,
        order=order,
        scores=[1 / (1 + index) for index in order],
        truncated=[False for _ in order],
        tokens=7,
        cached=0,
        model="served",
        latency_ms=1.0,
    )


def test_every_dialect_is_tried():
    assert {dialect.name for dialect in DIALECTS} == set(SPECIFIED)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@given(data=st.data())
def test_whatever_a_dialect_specifies_gets_its_reply(dialect, data):
    body = json.dumps(data.draw(SPECIFIED[dialect.name])).encode()
    call = Call(PATHS.get(dialect.name, dialect.paths[0]), dialect.headers, body, "id-1", 1_700_000_000)
    assert dialect_of(call).name == dialect.name
    results = [score(request) for request in dialect.parse(call)]
    reply = dialect.dump(results, call)
    shapes = dialect.reply if isinstance(dialect.reply, tuple) else (dialect.reply,)
    assert any(fits(reply, shape) for shape in shapes)
    assert b'"document":null' not in reply


def fits(reply, shape):
    try:
        msgspec.json.decode(reply, type=shape)
    except msgspec.ValidationError:
        return False
    return True


names = st.sampled_from(
    [
        "query", "documents", "texts", "passages", "input", "inputs", "text_1", "text_2", "queries", "candidates",
        "property", "content", "text", "top_n", "top_k", "raw_scores", "return_documents", "rank_fields", "truncate",
        "truncation_side", "model", "priority", "max_tokens_per_doc", "max_chunks_per_doc", "parameters", "instruct",
        "latency", "image",
    ]
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
bodies = st.dictionaries(names, values, max_size=6).map(lambda value: json.dumps(value).encode()) | st.binary(
    max_size=60
)
paths = st.sampled_from(sorted({path for dialect in DIALECTS for path in dialect.paths}))
headers = st.sampled_from([{}, {"Api-Key": "k"}, {"X-Pinecone-Api-Version": "2025-10"}])


@given(paths, headers, bodies)
def test_any_other_body_gets_an_error_of_the_client(path, some_headers, body):
    call = Call(path, some_headers, body, "id-1", 0)
    dialect = dialect_of(call)
    try:
        requests = dialect.parse(call)
    except InvalidRequestError as error:
        status = STATUS[type(error)][COLUMN[dialect.errors.profile]]
        assert 400 <= status < 500
        assert fits(dialect.errors.dump(error, status, "id-1"), dialect.errors.body)  # noqa: PT017 - either outcome is right
    else:
        assert all(request.documents for request in requests)
        dialect.dump([score(request) for request in requests], call)


@pytest.mark.parametrize(
    "deep",
    [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 5000 + b"]" * 5000],
    ids=["open lists", "open objects", "lists that end"],
)
def test_a_body_that_is_nested_too_deeply_is_refused(deep):
    body = b'{"query": "q", "documents": [{"text": "a", "x": ' + deep + b"}]}"
    call = Call("/v1/rerank", {}, body)
    with pytest.raises(InvalidRequestError):
        dialect_of(call).parse(call)
