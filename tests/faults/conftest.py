import pytest
from running import Stack


@pytest.fixture
def stack_with(bert_settings, tmp_path):
    """A stack that a trial may harm, with settings of its own; not started yet."""

    def make(**settings):
        return Stack(tmp_path / "own", artifacts_from=bert_settings.state_dir, model=bert_settings.model, **settings)

    return make
