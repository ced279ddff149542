import msgspec
import numpy as np
import pytest
from manifest_kit import manifest
from small_models import bert_tokenizer, texts
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from webapp.domain.types import RerankRequest, Truncation
from webapp.engine.artifact import Template
from webapp.engine.base import first_chars
from webapp.engine.loader import ModelEngine
from webapp.engine.models.decoder import DecoderSession, DecoderTexts
from webapp.engine.recipes import named_recipe
from webapp.engine.tokenizer import TextEncoder
from webapp.service.truncation import Truncator

SPECIAL_OF_A_PAIR = 3


@pytest.fixture(scope="module")
def tokenizer():
    whole = Tokenizer.from_str(bert_tokenizer().to_str())
    ends = [(name, whole.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    whole.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    return whole


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def encoder(saved):
    return TextEncoder(saved, Template([1], [2], [2], 1, 0, 512), query_takes_room=True)


def test_offsets_are_characters_of_the_text(encoder):
    text = "naïve café 🐝 bees"
    pieces = [text[start:stop] for start, stop in encoder.offsets(text).tolist()]
    assert "".join(pieces) == text.replace(" ", "")


def test_offsets_of_a_long_text_are_read_in_pieces(encoder, monkeypatch):
    text = " ".join(texts(20))
    at_once = encoder.offsets(text)
    monkeypatch.setattr("webapp.engine.tokenizer.PIECE_TOKENS", 7)
    assert encoder.offsets(text).tolist() == at_once.tolist()


def test_no_text_has_no_tokens(encoder):
    assert encoder.offsets("").shape == (0, 2)
    assert list(encoder.tokenize("", special=False)) == []


def test_special_tokens_have_no_place(encoder):
    first, *rest, last = encoder.tokenize("bees find home", special=True)
    assert (first.special, first.start, last.special, last.stop) == (True, None, True, None)
    assert not any(token.special for token in rest)
    assert list(encoder.tokenize("bees find home", special=False)) == rest


@pytest.mark.parametrize("keep", ["start", "end"])
@pytest.mark.parametrize("limit", [20, 33, 60])
@pytest.mark.parametrize("times", [1, 20])
def test_a_cut_pair_has_the_tokens_that_the_tokenizers_own_truncation_leaves(tokenizer, encoder, keep, limit, times):
    query, document = (
        "milk stays fresh bees find home " * times,
        "flowers far near station corner post office walk five minutes " * 20,
    )
    own = Tokenizer.from_str(tokenizer.to_str())
    own.enable_truncation(limit - SPECIAL_OF_A_PAIR, direction="right" if keep == "start" else "left")
    expected = own.encode(query, document, add_special_tokens=False).tokens
    request = RerankRequest(
        query=query,
        documents=[document],
        originals=[document],
        truncation=Truncation(max_pair_tokens=limit, keep=keep),
    )
    cut = Truncator(encoder, 512).truncate(request, max_windows=10).request
    found = [tokenizer.encode(text, add_special_tokens=False).tokens for text in (cut.query, cut.documents[0])]
    plain = [token.removeprefix("##") for token in found[0] + found[1]]
    # A word cut in two begins anew at the seam: the same letters, perhaps in other pieces.
    assert "".join(plain) == "".join(token.removeprefix("##") for token in expected)


def test_a_text_is_counted_with_the_prompt_that_the_model_wants_before_it(saved, encoder):
    template, prompts = Template([1], [], [2], 0, 0, 512), ("bees find ", "milk by the sun ")
    prompted = TextEncoder(saved, template, query_takes_room=False, prompts=prompts)
    assert prompted.query_tokens("home") == len(encoder.offsets("bees find home"))
    assert prompted.document_tokens("home") == len(encoder.offsets("milk by the sun home"))
    assert encoder.query_tokens("home") == encoder.document_tokens("home") == len(encoder.offsets("home"))


def test_a_bi_encoders_query_is_counted_with_its_own_prompt(saved):
    prompted = manifest(kind="embedding", template=Template([1], [], [2], 0, 0, 16), prompts=("bees find ", "milk "))
    engine = ModelEngine(prompted, None, saved)
    assert engine.texts.query_tokens("home") == len(engine.texts.offsets("bees find home"))


@pytest.mark.parametrize("wish", [{"keep": "end"}, {"windows": 100, "overlap_tokens": 0}], ids=["end", "windows"])
def test_what_is_kept_of_a_bi_encoders_document_is_read_whole_behind_its_prompt(saved, wish):
    prompts = ("bees find ", "milk by the sun ")
    template = Template([1], [], [2], 0, 0, 16)
    engine = ModelEngine(
        manifest(kind="embedding", template=template, prompts=prompts, score_scale="cosine"), None, saved
    )
    document = "flowers far near station corner post office walk five minutes " * 9
    request = RerankRequest("home", [document], [document], truncation=Truncation(**wish))
    cut = Truncator(engine.texts, 16).truncate(request, max_windows=100)
    session = engine.open_session(lambda ids, _mask, _types: np.ones((len(ids), 1), np.float32))
    read, _, truncated = session.encode_documents(session.encode_query("home"), cut.request.documents)
    decode = engine.texts.tokenizer.decode
    texts_read = [decode(ids.tolist()).removeprefix("milk by the sun ") for ids in read]
    assert not truncated.any()
    assert [text.split() for text in texts_read] == [window.split() for window in cut.request.documents]
    assert cut.spans[-1][1] == len(document.rstrip())


def test_a_decoder_s_words_after_a_text_are_read_however_long_it_is(saved, monkeypatch):
    for module in ("models.decoder", "base", "tokenizer"):
        monkeypatch.setattr(f"webapp.engine.{module}.MOST_CHARS", 20_000)
    recipe = msgspec.structs.replace(named_recipe("mxbai-rerank-v2"), document="document: {document} bees find home")
    template = Template([1], [2], [2], 0, 0, 512, names_are_text=True)
    texts = DecoderTexts(saved, template, recipe)
    session = DecoderSession(manifest(template=template), texts, None)
    blanks = " " * 20_001
    query = session.encode_query("bees")
    (short, long, longer), _, cut = session.encode_documents(query, ["milk", "milk" + blanks, "milk" + blanks + "a"])
    assert short.tolist() == long.tolist() == longer.tolist()
    assert cut.tolist() == [False, False, True]
    assert not session.encode_query("bees" + blanks).cut
    assert session.encode_query("bees" + blanks + "a").cut


@pytest.mark.parametrize("shift", range(40, 48))
def test_a_word_that_the_first_part_of_a_text_cuts_is_read_whole(tokenizer, saved, shift):
    """A table with wide columns: the words that fit fill the part of the text that is read first."""
    room = 32
    encoder = TextEncoder(saved, Template([1], [2], [2], 1, 0, room + 3), query_takes_room=True)
    text = " " * shift + "flowers".ljust(first_chars(room) // room) * 100  # the word that is kept last is at the cut
    whole = Tokenizer.from_str(tokenizer.to_str()).encode(text, add_special_tokens=False).ids
    assert encoder.encode([text])[0].tolist() == whole[: room + 1]


@pytest.mark.parametrize("kind", ["cross-encoder", "embedding"])
def test_a_text_without_any_token_is_a_row_of_padding(saved, kind):
    """Where the tokenizer adds no special tokens: no runtime takes a batch without columns."""
    bare = manifest(kind=kind, template=Template([], [], [], 0, 0, 16), score_scale="cosine", unit_vectors=True)
    engine = ModelEngine(bare, None, saved)
    seen = []

    def forward(ids, mask, _types):
        seen.append((ids.tolist(), mask.tolist()))
        return np.ones((len(ids), 1), np.float32)

    session = engine.open_session(forward)
    query = session.encode_query("")
    ids, lengths, _ = session.encode_documents(query, [""])
    session.score([(query, ids[0])], int(lengths[0]))
    assert lengths.tolist() == [0]
    assert set(map(str, seen)) == {str(([[0]], [[0]]))}


def test_of_a_text_without_end_no_more_is_looked_at_than_the_engine_reads(encoder, monkeypatch):
    monkeypatch.setattr("webapp.engine.tokenizer.MOST_CHARS", 1000)
    assert encoder.offsets("bees " * 1000).max() <= 1000
    assert encoder.query_tokens("bees " * 1000) == encoder.query_tokens("bees " * 200)
