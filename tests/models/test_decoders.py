"""Decoders of every family and layout score as their vendors' formulas, or sentence-transformers, on each engine."""

import numpy as np
import pytest
from catalogue import DECODERS, QUICK
from families import FAMILIES
from kit import LARGEST_ERROR, TORCH, by_formula, compare, pairs, parameters

from webapp.engine.loader import load_engine

INSTRUCTION = "Find what the question asks for, in any language 駅"

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(("case", "engine"), parameters(FAMILIES, QUICK[10:], DECODERS))
def test_scores_are_the_reference_s(workshop, case, engine):
    compare(workshop, case, FAMILIES[case.family], engine)


@pytest.mark.models
@pytest.mark.parametrize("family", ["qwen3-reranker", "mxbai-rerank-v2", "zerank", "ctxl-rerank-v2"])
def test_an_instruction_has_the_place_that_the_vendor_s_code_gives_it(workshop, family):
    case = next(case for case in QUICK if case.family == family)
    settings, manifest = workshop.prepare(case.build, TORCH)
    served = load_engine(settings)
    served.start(1)
    session = served.open_session()
    ours = []
    for question, document in pairs(case):
        query = session.encode_query(question, INSTRUCTION)
        (ids,), (length,), _ = session.encode_documents(query, [document])
        ours.append(float(session.score([(query, ids)], int(length))[0]))
    directory = workshop.build(case.build)
    fits = [at for at, (_, document) in enumerate(pairs(case)) if len(document) < 1000]
    asked = [pairs(case)[at] for at in fits]
    right = np.array(by_formula(directory, family, asked, manifest.max_length_tokens, INSTRUCTION))
    assert np.abs(np.array(ours)[fits] - right).max() <= LARGEST_ERROR * max(1.0, np.abs(right).max())
    without = workshop.reference(case, family, manifest.max_length_tokens)[fits]
    assert np.abs(without - right).max() > 1e-3, "the instruction must matter"
