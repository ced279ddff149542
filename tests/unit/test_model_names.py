"""What the served model may be called, and what replies call it."""

import dataclasses

import pytest
from app_kit import create_app
from asking import QUERY, TEXTS, ask, post

from webapp import __version__
from webapp.config.settings import Settings
from webapp.domain.types import names_of
from webapp.engine.runtimes.stub import StubEngine
from webapp.telemetry.metrics import PER_SECOND

HUB = dataclasses.replace(StubEngine.info, model="org/ranker")
STANDS_IN = dataclasses.replace(HUB, model="org/small", substitute_for="org/wanted")


@pytest.fixture
def serving(service):
    """The API of a strict service whose model has these names."""

    def serve(model, configured="", others=()):
        service.model, service.names, service._strict_model = model, names_of(model, configured, others), True
        return create_app(service, request_timeout_s=30, max_body_bytes=100_000, limits={}).test_client()

    return serve


def says(client, **fields):
    """The name in the reply of each format that has one."""
    documents = [{"content": text} for text in TEXTS]
    native = ask(client, "/rerank", documents=documents, **fields)["model"]
    batch = post(client, "/rerank/batch", [{"query": QUERY, "documents": TEXTS, **fields}]).json[0]["model"]
    said = {native, batch, ask(client, **fields)["model"], ask(client, "/v2/rerank", **fields)["model"]}
    for path, texts in (("/v1/ranking", "passages"), ("/v1/reranking", "input"), ("/v1/rerank", "candidates")):
        said.add(post(client, path, {"query": QUERY, texts: TEXTS, **fields}).json["model"])
    said.add(post(client, "/score", {"text_1": QUERY, "text_2": TEXTS, **fields}).json["model"])
    (name,) = said
    return name


def refusal(client, name):
    reply = post(client, "/v1/rerank", {"query": QUERY, "documents": TEXTS, "model": name})
    assert reply.status_code == 404
    assert client.get(f"/v1/models/{name}").status_code == 404
    return reply.json["detail"]


@pytest.mark.parametrize("form", ["{path}", "{path}/", "./my-ranker", "my-ranker"])
def test_a_strict_service_takes_the_path_that_was_configured_and_shows_no_caller_its_folder(
    serving, tmp_path, monkeypatch, form
):
    directory = tmp_path / "my-ranker"
    directory.mkdir()
    monkeypatch.chdir(tmp_path)
    model = dataclasses.replace(HUB, model="my-ranker")
    configured = form.format(path=directory)
    client = serving(model, configured)
    for name in (configured, str(directory), "my-ranker"):
        assert says(client, model=name) == name
        assert client.get(f"/v1/models/{name}").status_code == 200
    assert says(client) == "my-ranker"
    replies = client.get("/v1/models").text + client.get("/info").text + refusal(client, "other") + client.get("/").text
    assert str(tmp_path) not in replies


def test_a_path_from_the_home_directory_is_a_name_too(serving, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ranker").mkdir()
    client = serving(dataclasses.replace(HUB, model="ranker"), "~/ranker")
    assert says(client, model="~/ranker") == "~/ranker"
    assert says(client, model=str(tmp_path / "ranker")) == str(tmp_path / "ranker")


def test_a_link_and_what_it_points_to_are_both_names(serving, tmp_path):
    (tmp_path / "release-7").mkdir()
    (tmp_path / "current").symlink_to(tmp_path / "release-7")
    client = serving(dataclasses.replace(HUB, model="current"), str(tmp_path / "current"))
    assert says(client, model=str(tmp_path / "release-7"))


@pytest.mark.parametrize("name", ["org/ranker", "ranker", "best", "reranker"])
def test_the_id_its_last_part_and_served_names_are_names_of_the_model(serving, name):
    assert says(serving(HUB, "org/ranker", ("best", "reranker")), model=name) == name


def test_all_names_of_the_model_are_listed_and_the_first_served_name_is_its_name(serving):
    client = serving(HUB, "org/ranker", ("best", "reranker"))
    assert says(client) == "best"
    assert [entry["id"] for entry in client.get("/v1/models").json["data"]] == [
        "best",
        "reranker",
        "org/ranker",
        "ranker",
    ]
    assert {entry["root"] for entry in client.get("/v1/models").json["data"]} == {"org/ranker"}
    assert client.get("/info").json["served_model_name"] == "best"
    assert client.get("/info").json["model"] == "org/ranker"
    assert refusal(client, "other") == "model: the model 'other' is not served here; this is best"


def test_without_other_names_a_reply_says_the_id(serving):
    assert says(serving(HUB, "org/ranker")) == "org/ranker"


def test_our_own_reply_says_which_model_scored_where_it_has_another_name(serving):
    client = serving(HUB, "org/ranker", ("best",))
    documents = [{"content": "x"}]
    assert ask(client, "/rerank", documents=documents)["scored_by"] == "org/ranker"
    assert "scored_by" not in ask(client, "/rerank", documents=documents, model="org/ranker")


@pytest.mark.parametrize("name", ["org/wanted", "wanted", "best"])
def test_while_a_stand_in_serves_a_strict_service_refuses_the_names_of_the_model_that_is_missing(serving, name):
    client = serving(STANDS_IN, "org/wanted", ("best",))
    assert "this is org/small, in place of org/wanted" in refusal(client, name)


def test_a_stand_in_serves_and_is_listed_by_its_own_names(serving):
    client = serving(STANDS_IN, "org/wanted", ("best",))
    assert says(client) == "org/small"
    assert says(client, model="small") == "small"
    assert [entry["id"] for entry in client.get("/v1/models").json["data"]] == ["org/small", "small"]


def test_a_service_that_is_not_strict_says_the_name_that_was_asked_for_whatever_serves(serving, service):
    client = serving(STANDS_IN, "org/wanted")
    service._strict_model = False
    assert says(client, model="org/wanted") == "org/wanted"
    documents = [{"content": "x"}]
    assert ask(client, "/rerank", documents=documents, model="org/wanted")["scored_by"] == "org/small"


def test_served_names_are_a_setting_with_commas_or_a_list():
    assert Settings(served_model_name=["a", "b"]).served_model_name == "a,b"
    assert Settings(served_model_name="a, b").served_model_name == "a, b"


def test_the_service_that_is_assembled_has_the_names_of_its_settings(tmp_path):
    from webapp.servers.assembly import assemble
    from webapp.servers.gunicorn.bridge import GeventBridge

    settings = Settings(
        engine="stub", state_dir=tmp_path, model=str(tmp_path), served_model_name="a, b", strict_model=True
    )
    service = assemble(settings, GeventBridge()).service
    assert service.names.listed == ("a", "b", "stub")
    service.check_model(str(tmp_path))


def test_the_metrics_of_the_service_that_is_assembled_name_its_model(tmp_path):
    from webapp.servers.assembly import assemble
    from webapp.servers.gunicorn.bridge import GeventBridge

    reporter = assemble(Settings(engine="stub", state_dir=tmp_path), GeventBridge()).reporter
    reporter.start(lambda _interval, _step: None)
    registry = reporter._metrics._registry
    reporter.stop()
    labels = {"model": "stub", "revision": "1", "engine": "stub", "precision": "none", "version": __version__}
    assert registry.get_sample_value("rerank_model_info", labels) == 1
    sampled = {sample.name.removesuffix("_total") for family in registry.collect() for sample in family.samples}
    assert {metric.name for metric in PER_SECOND} <= sampled
