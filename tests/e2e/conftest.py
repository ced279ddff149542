import pytest
from browsing import browser
from running import Stack


@pytest.fixture(scope="session")
def stack(bert_settings, tmp_path_factory):
    """A running stack with the small BERT, for tests that leave it as it was."""
    with Stack(
        tmp_path_factory.mktemp("e2e"), artifacts_from=bert_settings.state_dir, model=bert_settings.model
    ) as running:
        yield running


@pytest.fixture
def own_stack(bert_settings, tmp_path):
    """A stack that a test may harm; not started yet."""
    return Stack(tmp_path / "own", artifacts_from=bert_settings.state_dir, model=bert_settings.model)


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running
