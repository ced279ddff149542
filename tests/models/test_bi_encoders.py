"""Bi-encoders of every layout score as sentence-transformers' own, on each engine."""

import pytest
from catalogue import BI_ENCODERS, QUICK
from families import FAMILIES
from kit import compare, parameters

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(("case", "engine"), parameters(FAMILIES, QUICK[9:10], BI_ENCODERS))
def test_scores_are_the_reference_s(workshop, case, engine):
    compare(workshop, case, FAMILIES[case.family], engine)
