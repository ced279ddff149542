"""What a request's instruction does, on a model that takes one and on one that takes none."""

import dataclasses
import json
import math

import gevent
import pytest
from app_kit import create_app
from asking import ask, post
from running import PATIENCE_S
from scheduling_kit import Rig

from webapp.api.body_process import _in_parts
from webapp.api.body_reader import Limits, memory_of, read
from webapp.api.dialects.base import Call
from webapp.api.dialects.dashscope import COMPATIBLE_PATH, PATH
from webapp.api.dialects.registry import DIALECTS
from webapp.domain.concurrency import LONG_CHARS
from webapp.domain.errors import InvalidRequestError
from webapp.domain.types import RecipeInfo, RerankRequest
from webapp.engine.runtimes.stub import StubEngine, StubSession, stub_logit
from webapp.scheduling.admission import Admission
from webapp.servers.gunicorn.bridge import GeventWaiter
from webapp.service.cache.memory import MemoryCache
from webapp.service.inflight import CallOptions, InflightScores
from webapp.service.reranker import RerankService
from webapp.stack.releases.checks import usual_path

MOST_CHARS = 1000
"""Of an instruction; more leaves no room."""

DEFAULT = "find what is like it"


class InstructedEngine(StubEngine):
    """Its logit is that of the instruction, the query and the document together."""

    info = dataclasses.replace(
        StubEngine.info,
        instruction=DEFAULT,
        temperature=5.0,
        recipe=RecipeInfo("zerank", "zerank 2", "CC BY-NC 4.0"),
        activation="Sigmoid",
    )

    def __init__(self):
        self.heard = []
        """Instructions of the queries that were encoded."""

    def open_session(self):
        engine = self

        class Session(StubSession):
            def encode_query(self, query, instruction=""):
                engine.heard.append(instruction)
                if len(instruction) > MOST_CHARS:
                    raise InvalidRequestError("must leave room for query and document", field="instruction")
                return f"{instruction}|{query}"

            def encode_documents(self, query, documents):
                return super().encode_documents(query, [f"{query}|{document}" for document in documents])

        return Session()


def logit(document, query="q", instruction=""):
    return stub_logit(f"{instruction}|{query}|{document}")


@pytest.fixture
def engine():
    return InstructedEngine()


@pytest.fixture
def instructed(engine):
    """A service on a model that takes instructions, with a cache."""
    with Rig(engine) as rig:
        engine.heard.clear()  # of the pool's own first scores
        cache = MemoryCache(100_000)
        yield RerankService(
            model=engine.info,
            scoring=InflightScores(scheduler=rig.scheduler, cache=cache, artifact="a", make_waiter=GeventWaiter),
            admission=Admission(max_ongoing_requests=10),
            max_documents=100,
            texts=engine.texts,
        )


@pytest.fixture
def api(instructed):
    return create_app(instructed, request_timeout_s=30, max_body_bytes=10_000_000, limits={}).test_client()


def example(dialect, **fields):
    """A call of a dialect, with fields beside its own."""
    return usual_path(dialect), {**dialect.example, **fields}, dict(dialect.headers)


def said(reply):
    return reply.headers.getlist("X-Rerank-Warning")


by_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)


@by_dialect
def test_every_dialect_carries_one_to_the_model(api, engine, dialect):
    path, body, headers = example(dialect, instruction="find the opposite")
    reply = post(api, path, body, headers=headers)
    assert (reply.status_code, said(reply)) == (200, [])
    assert set(engine.heard) == {"find the opposite"}


@by_dialect
@pytest.mark.parametrize(
    "fields",
    [
        {"instruct": "find the opposite"},
        {"chat_template_kwargs": {"instruction": "find the opposite"}},
        {"chat_template_kwargs": {"instruct": "find the opposite"}},
        {"instruction": "find the opposite", "instruct": "be kind", "chat_template_kwargs": {"instruct": "be kind"}},
        {"instruction": " ", "instruct": None, "chat_template_kwargs": {"instruction": "find the opposite"}},
    ],
    ids=str,
)
def test_sglang_s_and_vllm_s_ways_to_carry_one_are_the_same(api, engine, dialect, fields):
    path, body, headers = example(dialect, **fields)
    reply = post(api, path, body, headers=headers)
    assert (reply.status_code, said(reply)) == (200, [])
    assert set(engine.heard) == {"find the opposite"}


@by_dialect
@pytest.mark.parametrize("name", ["instruction", "instruct"])
def test_an_argument_of_the_template_that_is_no_text_is_refused_by_name(api, dialect, name):
    path, body, headers = example(dialect, chat_template_kwargs={name: 7})
    reply = post(api, path, body, headers=headers)
    assert reply.status_code in {400, 422}
    assert f"chat_template_kwargs.{name}" in reply.text


@by_dialect
def test_other_arguments_of_the_template_are_said_to_have_no_effect(api, engine, dialect):
    path, body, headers = example(dialect, chat_template_kwargs={"enable_thinking": False, "instruct": "be kind"})
    reply = post(api, path, body, headers=headers)
    assert reply.status_code == 200
    assert set(engine.heard) == {"be kind"}
    (warning,) = said(reply)
    assert "chat_template_kwargs was ignored but for instruction and instruct: 'enable_thinking'" in warning


@by_dialect
@pytest.mark.parametrize("blank", [None, "", " \n"])
def test_a_blank_one_is_none(api, engine, dialect, blank):
    path, body, headers = example(dialect, instruction=blank)
    assert post(api, path, body, headers=headers).status_code == 200
    assert set(engine.heard) == {""}


@by_dialect
@pytest.mark.parametrize("wrong", [7, True, ["a"], {"a": "b"}], ids=str)
def test_what_is_no_text_is_refused_by_name(api, dialect, wrong):
    path, body, headers = example(dialect, instruction=wrong)
    reply = post(api, path, body, headers=headers)
    assert reply.status_code == (422 if dialect.errors.profile == "tei" else 400)
    assert "instruction: must be a string, not" in reply.text


@by_dialect
def test_one_that_leaves_no_room_is_refused_by_name(api, instructed, dialect):
    path, body, headers = example(dialect, instruction="a" * 100_000)
    reply = post(api, path, body, headers=headers)
    assert reply.status_code == (422 if dialect.errors.profile == "tei" else 400)
    assert "instruction: must leave room for query and document" in reply.text
    assert instructed.scoring._scheduler.totals.failures == 0
    assert instructed.fallback.breaker.state == "closed"


@by_dialect
def test_a_model_that_takes_none_is_asked_without_and_says_so(client, dialect):
    path, body, headers = example(dialect, instruction="find the opposite")
    (warning,) = said(post(client, path, body, headers=headers))
    assert warning == "instruction was ignored: this model takes none"
    assert said(post(client, path, {**body, "instruction": " "}, headers=headers)) == []


@pytest.mark.parametrize("at", ["parameters", "body"])
def test_dashscope_s_instruct_is_an_instruction(api, engine, at):
    body = {"input": {"query": "q", "documents": ["a"]}}
    post(api, PATH, {**body, **({"parameters": {"instruct": "x"}} if at == "parameters" else {"instruct": "x"})})
    post(api, COMPATIBLE_PATH, {"query": "q", "documents": ["b"], "instruct": "x"})
    assert engine.heard == ["x", "x"]
    reply = post(api, PATH, {**body, "parameters": {"instruct": 7}})
    assert "parameters.instruct: must be a string" in reply.json["message"]


def test_a_blank_instruct_in_dashscope_s_parameters_and_other_arguments_leave_the_one_beside_them(api, engine):
    for given in ({"instruct": " "}, {"chat_template_kwargs": {"enable_thinking": False}}):
        post(api, PATH, {"input": {"query": "q", "documents": [str(given)]}, "instruction": "y", "parameters": given})
    assert engine.heard == ["y", "y"]
    wrong = {"chat_template_kwargs": {"instruct": 7}}
    reply = post(api, PATH, {"input": {"query": "q", "documents": ["a"]}, **wrong, "parameters": {"instruct": "x"}})
    assert "chat_template_kwargs.instruct: must be a string" in reply.json["message"]


@pytest.mark.parametrize("in_parameters", ["instruct", "instruction"])
@pytest.mark.parametrize(
    "beside", [{"instruction": "y"}, {"instruct": "y"}, {"chat_template_kwargs": {"instruct": "y"}}]
)
def test_of_dashscope_s_instructions_that_in_parameters_goes_first(api, engine, in_parameters, beside):
    post(api, PATH, {"input": {"query": "q", "documents": ["a"]}, **beside, "parameters": {in_parameters: "x"}})
    assert engine.heard == ["x"]


def test_a_refused_request_of_a_batch_does_not_hurt_the_others(api):
    documents = [{"content": "a"}]
    asked = [{"query": "q", "documents": documents, "instruction": text} for text in ("", "a" * 2000, 7)]
    served, refused, wrong = post(api, "/rerank/batch", asked).json
    assert served["results"][0]["index"] == 0
    assert (refused["error"]["field"], refused["error"]["code"]) == ("instruction", "invalid_request")
    assert wrong["error"]["field"] == "instruction"


def raw(service, instruction):
    request = RerankRequest("q", ["a", "b"], [], raw_scores=True, instruction=instruction)
    result = service.rerank(request, CallOptions())
    return [score for _, score in sorted(zip(result.order, result.scores, strict=True))], result.cached


def expected(instruction):
    return pytest.approx([logit("a", instruction=instruction), logit("b", instruction=instruction)], abs=2e-3)


def test_requests_at_once_with_different_ones_don_t_share_scores(instructed, engine):
    asked = ["find this", "find that", "find this", None]
    waiting = [gevent.spawn(raw, instructed, each) for each in asked]
    for each, instruction in zip(waiting, asked, strict=True):
        scores, _ = each.get(timeout=PATIENCE_S)
        assert scores == expected(instruction or "")
    assert sorted(engine.heard) == ["", "find that", "find this"], "equal ones share"


def test_cached_scores_are_those_of_the_same_one(instructed):
    for instruction in ("find this", "find that", None):
        assert raw(instructed, instruction) == (expected(instruction or ""), 0)
    for instruction in ("find this", "find that", None, DEFAULT):
        assert raw(instructed, instruction) == (expected("" if instruction == DEFAULT else instruction or ""), 2)


def test_a_temperature_divides_logits_and_nothing_else(api):
    documents = ["a", "b", "c"]
    logits = sorted((logit(document) for document in documents), reverse=True)
    plain = ask(api, query="q", documents=documents)["results"]
    scores = [each["relevance_score"] for each in plain]
    assert scores == pytest.approx([1 / (1 + math.exp(-each / 5)) for each in logits], abs=1e-3)
    model_s_own = ask(api, query="q", documents=documents, raw_scores=True)["results"]
    assert [each["relevance_score"] for each in model_s_own] == pytest.approx(logits, abs=2e-3)
    nim = post(api, "/v1/ranking", {"query": "q", "passages": documents}).json["rankings"]
    assert [each["logit"] for each in nim] == pytest.approx(logits, abs=2e-3)


def test_info_says_how_a_decoder_is_served(api, client):
    info = api.get("/info").json
    assert (info["instruction"], info["temperature"], info["activation"]) == (DEFAULT, 5.0, "Sigmoid")
    assert info["score_scale"] == "0..1, the sigmoid of the model's logit / 5; raw_scores gives the logit"
    assert info["recipe"] == {
        "name": "zerank",
        "title": "zerank 2",
        "licence": "CC BY-NC 4.0 (as its maker states; check it)",
    }
    plain = client.get("/info").json
    assert (plain["instruction"], plain["temperature"], plain["recipe"]) == (None, 1.0, None)
    assert plain["score_scale"] == "0..1, the sigmoid of the model's logit; raw_scores gives the logit"


@pytest.mark.parametrize("different", [{"instruction": "another"}, {"temperature": 2.0}])
def test_what_changes_scores_changes_the_identity(engine, different):
    assert dataclasses.replace(engine.info, **different).identity != engine.info.identity


def test_a_long_one_is_sent_in_parts_and_its_memory_counts():
    body = json.dumps({"query": "q", "documents": ["a"], "instruction": "x" * 3 * LONG_CHARS}).encode()
    parsed = read("rerank", Call("/v1/rerank", {}, body), Limits(10_000_000))
    assert memory_of(parsed) > 3 * LONG_CHARS
    sent = _in_parts(parsed.good[0]).instruction
    assert "".join(sent.__reduce__()[1][0]) == "x" * 3 * LONG_CHARS
