import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from webapp.engine.artifact import Template
from webapp.engine.base import MOST_CHARS
from webapp.engine.tokenizer import TextEncoder, split_room


@pytest.fixture(scope="module")
def words():
    """A tokenizer for which every word is a token."""
    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 50))
def test_the_room_is_split_as_longest_first_truncation_does(words, query, document, room):
    words.enable_truncation(room, strategy="longest_first")
    encoding = words.encode("a " * query, "b " * document, add_special_tokens=False)
    assert split_room(query, document, room) == (encoding.ids.count(0), encoding.ids.count(1))


@given(st.integers(0, 600), st.integers(0, 600), st.integers(2, 512))
def test_a_query_keeps_half_of_the_room_and_nothing_is_wasted(query, document, room):
    kept_query, kept_document = split_room(query, document, room)
    assert kept_query >= min(query, room // 2)
    assert kept_query + kept_document == min(query + document, room)


@pytest.fixture
def encoder(words, tmp_path):
    words.no_truncation()
    words.save(str(tmp_path / "tokenizer.json"))
    return TextEncoder(tmp_path / "tokenizer.json", Template([], [], [], 0, 0, 10), query_takes_room=True)


def test_a_text_is_cut_at_the_room_and_one_more(encoder):
    assert [len(ids) for ids in encoder.encode(["", "a", "a " * 10, "a " * 11, "a " * 10_000])] == [0, 1, 10, 11, 11]


def test_tokens_after_a_long_stretch_of_nothing_are_found(encoder):
    assert encoder.encode([" " * 1_000_000 + "a b a"])[0].tolist() == [0, 1, 0]


def test_a_text_without_end_is_read_so_far_and_no_further(encoder):
    assert encoder.encode([" " * MOST_CHARS + "a b a"])[0].tolist() == []
    assert encoder.count("a " * MOST_CHARS) == MOST_CHARS / 2


def test_a_text_of_which_a_part_is_never_read_says_so(encoder):
    assert encoder.has_unread_rest(" " * MOST_CHARS + "a")
    assert not encoder.has_unread_rest("a" + " " * MOST_CHARS)
    assert not encoder.has_unread_rest("a" * MOST_CHARS)
