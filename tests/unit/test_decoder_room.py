"""How instruction, query and document of a decoder share its length: the session's own rule, asked from outside."""

from contextlib import nullcontext

import msgspec
import numpy as np
import pytest
import small_decoders
from hypothesis import given
from hypothesis import strategies as st
from manifest_kit import manifest

from webapp.config.settings import Settings
from webapp.domain.errors import InvalidRequestError, SetupError
from webapp.domain.types import RerankRequest, Scored, Truncation
from webapp.engine.artifact import Template
from webapp.engine.loader import ModelEngine, check_instruction
from webapp.engine.recipes import named_recipe
from webapp.service.truncation import Truncator, collapse

LIMIT = 120
SPECIAL = 12
WORDS = "bees find home by the sun milk keeps three days in the cold".split()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    small_decoders.qwen_tokenizer().backend_tokenizer.save(str(path))
    return path


TEMPLATE = Template(
    prefix=[1] * 8, middle=[], suffix=[2] * 4, document_type=0, pad_id=0, max_length_tokens=LIMIT, names_are_text=True
)


def engine_of(saved, name="qwen3-reranker", **different):
    recipe = msgspec.structs.replace(named_recipe(name), **different)
    return ModelEngine(manifest(template=TEMPLATE, recipe=recipe), None, saved)


def session_of(engine):
    return engine.open_session(forward=lambda *_: None)


@pytest.fixture(scope="module", params=["qwen3-reranker", "mxbai-rerank-v2", "ctxl-rerank-v2"])
def engine(request, saved):
    return engine_of(saved, request.param)


def text(words):
    return " ".join(WORDS[number % len(WORDS)] for number in range(words))


def scored_of(engine, request):
    """What the engine's session says of a request's pairs."""
    session = session_of(engine)
    _, lengths, truncated = session.encode_documents(
        session.encode_query(request.query, request.instruction or ""), request.documents
    )
    return Scored(np.zeros(len(lengths), np.float32), truncated, tokens=int(lengths.sum()), cached=0), lengths


def asked(query, *documents, instruction=None, **wish):
    return RerankRequest(
        text(query),
        [text(words) for words in documents],
        [],
        instruction=instruction and text(instruction),
        truncation=Truncation(**wish) if wish else None,
    )


sizes = st.integers(0, 20) | st.integers(0, 150)


@given(st.integers(1, 150), st.lists(sizes, min_size=1, max_size=3), st.none() | st.integers(1, 15))
def test_what_is_said_to_be_cut_is_what_the_session_cuts(engine, query, documents, instruction):
    request = asked(query, *documents, instruction=instruction)
    truncator = Truncator(engine.texts, LIMIT)
    own = engine.texts.read_query(request.query, request.instruction or "")
    scored, lengths = scored_of(engine, request)
    assert lengths.max() <= LIMIT
    read = truncator.query_read(request, scored)
    assert (read.tokens, read.cut) == (0, own.cut)
    if read.cut:
        room = LIMIT - SPECIAL - len(own.ids)
        expected = [engine.texts.document_tokens(document) > room for document in request.documents]
        said = truncator.documents_cut(request, scored, range(len(documents)))
        # A query that is cut may leave the document a token of its own share.
        near = [abs(engine.texts.document_tokens(document) - room) <= 2 for document in request.documents]
        assert all(one == other or close for one, other, close in zip(said, expected, near, strict=True))
    else:
        whole = [
            engine.texts.query_tokens(request.query, request.instruction or "") + engine.texts.document_tokens(document)
            for document in request.documents
        ]
        assert scored.truncated.tolist() == [tokens > LIMIT - SPECIAL for tokens in whole]


def test_a_long_query_keeps_three_quarters_and_its_document_the_rest(saved):
    engine = engine_of(saved)
    read = engine.texts.read_query(text(150), "")
    assert read.cut
    assert 0 <= (LIMIT - SPECIAL) * 3 // 4 - len(read.ids) <= 2


def test_a_query_that_is_longer_than_what_is_read_first_keeps_its_beginning(saved):
    engine = engine_of(saved)
    query = "flowers " * 3000
    read = engine.texts.read_query("bees " + query, "")
    assert read.ids.tolist() == engine.texts.read_query("bees " + query[:2000], "").ids.tolist()
    assert read.ids.tolist() != engine.texts.read_query(query, "").ids.tolist()


@given(
    st.integers(1, 60),
    st.lists(sizes, min_size=1, max_size=3),
    st.none() | st.integers(1, 15),
    st.fixed_dictionaries(
        {"windows": st.integers(2, 4), "keep": st.sampled_from(["start", "end"])},
        optional={
            "max_document_tokens": st.integers(1, 60),
            "max_query_tokens": st.integers(1, 60),
            "overlap_tokens": st.integers(0, 9),
        },
    ),
)
def test_windows_see_the_room_that_instruction_and_query_leave(engine, query, documents, instruction, wish):
    request = asked(query, *documents, instruction=instruction, **wish)
    made = Truncator(engine.texts, LIMIT).truncate(request, max_windows=1000)
    scored, lengths = scored_of(engine, made.request)
    assert lengths.max() <= LIMIT
    kept = engine.texts.query_tokens(made.request.query, request.instruction or "")
    for document, start, stop in zip(request.documents, made.starts, [*made.starts[1:], len(made.spans)], strict=True):
        windows = made.request.documents[start:stop]
        if len(windows) > 1:  # each is as long as fits, but for what its ends are joined with
            tokens = [kept + engine.texts.document_tokens(window) for window in windows]
            assert all(abs(LIMIT - SPECIAL - each) <= 3 for each in tokens) or "max_document_tokens" in wish
            assert document.startswith(windows[0]) if wish["keep"] == "start" else document.endswith(windows[-1])
    collapse(scored, made)


@pytest.mark.parametrize(("pair", "instruction"), [(85, 10), (100, 10), (100, None), (119, None)])
def test_a_pair_limit_counts_the_model_s_words_and_the_instruction(saved, pair, instruction):
    engine = engine_of(saved)
    made = Truncator(engine.texts, LIMIT).truncate(asked(20, 100, instruction=instruction, max_pair_tokens=pair), 10)
    _, lengths = scored_of(engine, made.request)
    assert abs(lengths[0] - pair) <= 2
    assert made.request.query


@pytest.mark.parametrize("pair", [1, SPECIAL, 30, 78])
def test_a_pair_limit_that_the_model_s_words_fill_is_refused(saved, pair):
    with pytest.raises(InvalidRequestError, match=r"must be at least .* the model's own words") as refused:
        Truncator(engine_of(saved).texts, LIMIT).truncate(asked(5, 100, max_pair_tokens=pair), 10)
    assert refused.value.field == "truncate_prompt_tokens"


def test_what_may_not_be_cut_is_counted_with_instruction_and_words(saved):
    texts = engine_of(saved).texts
    request = asked(5, 100, instruction=10, strict=True)
    scored = Scored(np.zeros(1, np.float32), np.array([True]), tokens=0, cached=0)
    tokens = SPECIAL + texts.query_tokens(request.query, request.instruction) + texts.document_tokens(text(100))
    assert f"it has {tokens};" in Truncator(texts, LIMIT).too_long(request, scored).message


def test_an_instruction_that_leaves_no_room_is_refused_by_name(saved):
    with pytest.raises(InvalidRequestError, match="must leave room for query and document") as refused:
        session_of(engine_of(saved)).encode_query("bees", "milk " * 20_000)
    assert refused.value.field == "instruction"


def test_a_default_that_leaves_no_room_is_refused_at_start(saved):
    with pytest.raises(SetupError, match="shorten RERANK_INSTRUCTION, or raise RERANK_MAX_LENGTH_TOKENS"):
        engine_of(saved, instruction=text(120))


@pytest.mark.parametrize(
    ("recipe", "instruction", "said"),
    [
        ("mxbai-rerank-v2", text(120), "shorten RERANK_INSTRUCTION, or raise RERANK_MAX_LENGTH_TOKENS"),
        ("bge-reranker-v2-gemma", "find bees", "RERANK_INSTRUCTION: a takes no instruction; leave it empty"),
        ("mxbai-rerank-v2", "find bees", None),
    ],
    ids=["too long", "in vain", "good"],
)
def test_prepare_says_whether_the_operator_s_instruction_fits(saved, tmp_path, recipe, instruction, said):
    settings = Settings(state_dir=tmp_path, instruction=instruction)
    found = manifest(template=TEMPLATE, recipe=named_recipe(recipe))
    with pytest.raises(SetupError, match=said) if said else nullcontext():
        check_instruction(saved.parent, found, settings)
