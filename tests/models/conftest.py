from __future__ import annotations

import warnings

import pytest
from kit import Workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    """Models, artifacts and references, each made once."""
    from webapp.engine.prepare import calibration

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(calibration, "CALIBRATION_PAIRS", 24)  # int8 of random weights is judged by nobody
        patch.setattr(calibration, "JUDGED_DOCUMENTS_A_QUERY", 4)
        yield Workshop(tmp_path_factory.mktemp("workshop"))
