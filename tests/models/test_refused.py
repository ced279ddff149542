"""What can't be served rightly is refused in one line that names it, and nothing of it is run."""

import pytest
from refusals import REFUSALS

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("refused", REFUSALS, ids=lambda refused: refused.what)
def test_a_model_that_can_t_be_served_rightly_is_refused_in_one_line(workshop, refused):
    message = workshop.refusal(refused)
    assert refused.words in message
    assert "\n" not in message
    assert "Traceback" not in message
