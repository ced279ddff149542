import pytest

from webapp.errors import SetupError
from webapp.settings import load_settings


def test_defaults_need_nothing_set():
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.model_is_default


def test_naming_the_default_model_counts_as_naming_it(monkeypatch):
    monkeypatch.setenv("RERANK_MODEL", "cross-encoder/ms-marco-MiniLM-L6-v2")
    assert not load_settings().model_is_default


@pytest.mark.parametrize(("name", "value"), [("API_KEYS", " , "), ("REDIS_URL", "pass:word@host")])
def test_a_secret_that_can_t_be_right_is_named_and_not_shown(monkeypatch, name, value):
    monkeypatch.setenv(f"RERANK_{name}", value)
    with pytest.raises(SetupError, match=f"RERANK_{name}") as caught:
        load_settings()
    assert value not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RERANK_PORT", "http"),
        ("RERANK_PRECISION", "fp64"),
        ("RERANK_WORKERS", "0"),
        ("RERANK_STATE_DIR", "/" + "x" * 120),
    ],
)
def test_a_wrong_value_is_named_with_its_variable(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SetupError, match=name):
        load_settings()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"STACKS": "10.0.0.7:8080"}, "'10.0.0.7:8080' is not http://host:port"),
        ({"STACKS": "http://10.0.0.7"}, "is not http://host:port"),
        ({"STACKS": "http://a:1,https://b:1", "STACKS_CA": "ca.pem"}, "all of them"),
        ({"STACKS": "https://a:1"}, "RERANK_STACKS_CA"),
        ({"STACKS": "http://a:1", "STACKS_CA": "ca.pem"}, "RERANK_STACKS_CA"),
        ({"BALANCERS": "the balancer"}, "RERANK_BALANCERS"),
    ],
)
def test_stacks_and_balancers_that_can_t_be_meant_are_named(monkeypatch, variables, said):
    for name, value in variables.items():
        monkeypatch.setenv(f"RERANK_{name}", value)
    with pytest.raises(SetupError, match=said):
        load_settings()
