import pytest
from securing import Secured


@pytest.fixture(scope="session")
def secured(tmp_path_factory):
    """A stack with everything on. Its trials leave it as it was."""
    made = Secured(tmp_path_factory.mktemp("secured"))
    with made.stack:
        yield made
