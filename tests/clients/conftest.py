import pytest
from running import Stack


@pytest.fixture(scope="session")
def stack(bert_settings, tmp_path_factory):
    """A running stack without keys."""
    state = tmp_path_factory.mktemp("clients")
    with Stack(state, artifacts_from=bert_settings.state_dir, model=bert_settings.model) as running:
        yield running
