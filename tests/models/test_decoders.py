"""Decoders of every family and layout score as their vendors' formulas, or sentence-transformers, on each engine."""

import pytest
from catalogue import DECODERS, FAMILIES, QUICK
from kit import compare, tested

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(("case", "engine"), tested(FAMILIES, QUICK[10:], DECODERS))
def test_scores_are_the_reference_s(workshop, case, engine):
    compare(workshop, case, FAMILIES[case.family], engine)
