"""What can't be served rightly is refused in one line that names it, and nothing of it is run."""

import pytest
from document import ROOT, document
from refusals import REFUSALS

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def messages():
    """What was said of each model that was refused so far."""
    return {}


@pytest.mark.parametrize("refused", REFUSALS, ids=lambda refused: refused.what)
def test_a_model_that_can_t_be_served_rightly_is_refused_in_one_line(workshop, messages, refused):
    message = workshop.refusal(refused)
    assert refused.words in message
    assert "\n" not in message
    assert "Traceback" not in message
    messages[refused.what] = message


def test_the_documentation_is_made_from_the_suite(workshop, messages):
    said = {each.what: messages.get(each.what) or workshop.refusal(each) for each in REFUSALS}
    run = "run: .venv/bin/python tests/models/document.py > docs/models.md"
    assert (ROOT / "docs" / "models.md").read_text() == document(said), run
