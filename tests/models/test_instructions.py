"""The gate judges a decoder with an instruction, too, by its vendor's formula."""

import dataclasses

import msgspec
import numpy as np
import pytest
import small_decoders
from manifest_kit import manifest

from webapp.domain.errors import SetupError
from webapp.domain.ranking import to_scores
from webapp.engine.artifact import TOKENIZER
from webapp.engine.loader import ModelEngine
from webapp.engine.models.original import load_source
from webapp.engine.prepare import gate
from webapp.engine.prepare.check_texts import INSTRUCTION
from webapp.engine.prepare.export import export_tokenizer
from webapp.engine.prepare.framing import check_framing
from webapp.engine.runtimes.torch import LoadedRuntime

pytestmark = pytest.mark.filterwarnings("ignore")

FIGURES = {"max_score_error": 0.0, "score_range": 1.0}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Zerank's family has a temperature, and no instruction by default."""
    directory = tmp_path_factory.mktemp("models") / "decoder"
    return load_source(small_decoders.build_decoder(directory, name="zeroentropy/zerank-2"))


def engine_of(source, directory, **different):
    template = export_tokenizer(source, directory)
    recipe = msgspec.structs.replace(source.recipe, **different)
    engine = ModelEngine(manifest(template=template, recipe=recipe), LoadedRuntime(source), directory / TOKENIZER)
    engine.start(1)
    return engine


def test_the_vendor_s_formula_with_an_instruction_is_ours(source, tmp_path):
    check_framing(engine_of(source, tmp_path), source)
    pairs = [("how do bees find home", "by the sun")]
    assert source.reference(pairs) != pytest.approx(source.reference(pairs, "find the opposite"), abs=1e-3)


def test_a_recipe_with_another_place_for_it_is_refused(source, tmp_path):
    wrong = engine_of(source, tmp_path, instructed_query="{query} {instruction}")
    with pytest.raises(SetupError, match="the likely cause: an instruction is framed in another way"):
        check_framing(wrong, source)


def test_golden_scores_name_their_instruction_and_are_over_the_temperature(source):
    golden = gate.golden(source, FIGURES)
    assert golden.instruction == INSTRUCTION
    for group in golden.queries:
        logits = source.reference([(group.query, document) for document in group.documents], INSTRUCTION)
        temperature = source.recipe.score.temperature
        assert group.scores == pytest.approx(1 / (1 + np.exp(-logits.astype(float) / temperature)))


def test_errors_are_what_a_client_sees_of_them(source, tmp_path):
    """A difference of raw scores counts by the temperature."""
    engine = engine_of(source, tmp_path)
    figures = gate.measure(_Shifted(engine, 0.5), source, [("bees", ["milk", "by the sun"])])
    theirs = source.reference([("bees", "milk")])
    temperature = source.recipe.score.temperature
    one, other = (to_scores(raw, "sigmoid", raw=False, temperature=temperature) for raw in (theirs, theirs + 0.5))
    assert figures["max_score_error"] >= abs(one - other)[0] - 1e-6
    assert figures["max_score_error"] <= 0.25 * 0.5 / temperature + 1e-3


@dataclasses.dataclass
class _Shifted:
    """An engine whose raw scores are all off by as much."""

    engine: ModelEngine
    by: float

    def open_session(self):
        session = self.engine.open_session()
        honest = session.score
        session.score = lambda pairs, length: honest(pairs, length) + self.by
        return session
