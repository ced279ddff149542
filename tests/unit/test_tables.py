"""A tokenizer must stay inside the tables of its model."""

import pytest
from tokenizers import Tokenizer, models

from webapp.domain.errors import SetupError
from webapp.engine.artifact import Tables, Template
from webapp.engine.tokenizer import check_tables

FRAME = Template(prefix=[1], middle=[2], suffix=[2], document_type=1, pad_id=0, max_length_tokens=16)


def tokenizer(*added, **ids):
    made = Tokenizer(models.WordLevel({"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "bees": 3, **ids}, unk_token="[PAD]"))
    made.add_special_tokens(list(added))
    return made


@pytest.mark.parametrize("tables", [Tables(4, 16, 2), Tables(400, 512, 2), Tables(None, None, None)])
def test_a_table_as_long_as_the_vocabulary_or_longer_is_sound(tables):
    check_tables(tables, FRAME, tokenizer())


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (tokenizer(milk=4), "the tokenizer knows 5 words, the model's table has 4"),
        (tokenizer("[EXTRA]"), "the tokenizer knows 5 words, the model's table has 4"),
        (tokenizer(milk=30_522), "the tokenizer knows 30,523 words, the model's table has 4"),
    ],
    ids=["a word", "an added token", "an id past a hole"],
)
def test_a_tokenizer_with_more_words_than_its_model_has_rows_is_refused(found, says):
    with pytest.raises(SetupError, match=says):
        check_tables(Tables(4, 16, 2), FRAME, found)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ({"max_length_tokens": 17}, "17 tokens, the model has 16 positions"),
        ({"document_type": 2}, "token type 2, the model has 2"),
        ({"document_type": -1}, "token type -1"),
        ({"suffix": [4]}, "knows 5 words"),
        ({"pad_id": 4}, "knows 5 words"),
        ({"pad_id": -1}, "negative"),
        ({"middle": [-7]}, "negative"),
        ({"max_length_tokens": 3}, "no room"),
    ],
)
def test_a_frame_outside_the_tables_is_refused(template, says):
    fields = {name: getattr(FRAME, name) for name in FRAME.__struct_fields__}
    with pytest.raises(SetupError, match=says):
        check_tables(Tables(4, 16, 2), Template(**{**fields, **template}), tokenizer())
