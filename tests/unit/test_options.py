"""What the options of a request mean, under all the names that clients know."""

import msgspec
import pytest
from asking import post

from webapp.api.dialects.base import Call
from webapp.api.dialects.dashscope import PATH, DashScopeBody, to_requests
from webapp.api.dialects.request_parts import Options, truncation_of
from webapp.domain.errors import InvalidRequestError
from webapp.domain.types import Truncation


@pytest.mark.parametrize(
    ("options", "keep", "strict"),
    [
        ({"truncate": "END"}, "start", False),
        ({"truncate": " end "}, "start", False),
        ({"truncate": "right"}, "start", False),
        ({"truncate": "START"}, "end", False),
        ({"truncate": "left"}, "end", False),
        ({"truncate": False}, None, True),
        ({"truncation": "NONE"}, None, True),
        ({"truncation_side": "right"}, "start", False),
        ({"truncation_side": "left"}, "end", False),
        ({"truncation_direction": "Right"}, "start", False),
        ({"truncation_direction": "Left"}, "end", False),
        ({"truncate": False, "truncation_direction": "right"}, "start", True),
    ],
)
def test_a_side_that_is_named_is_a_wish(options, keep, strict):
    assert truncation_of(Options(**options)) == Truncation(keep=keep, strict=strict)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"truncate": True},
        {"truncate": ""},
        {"truncation": "true"},
        {"truncation_side": ""},
        {"max_tokens_per_doc": 0},
    ],
)
def test_what_names_no_side_leaves_it_to_the_model(options):
    assert truncation_of(Options(**options)) is None


def dashscope(parameters, **beside):
    body = {"input": {"query": "q", "documents": ["a"]}, "parameters": parameters, **beside}
    (request,) = to_requests(msgspec.convert(body, DashScopeBody), Call(PATH, {}, msgspec.json.encode(body)))
    return request


@pytest.mark.parametrize(
    ("parameters", "beside", "truncation"),
    [
        ({"truncate": "END"}, {"truncation_side": "left"}, Truncation(keep="start")),
        ({"truncation_direction": "left"}, {"truncate": "END"}, Truncation(keep="end")),
        ({"truncation": True}, {"truncate": False}, None),
        ({"truncate": False}, {"max_tokens_per_doc": 7}, Truncation(strict=True, max_document_tokens=7)),
        ({"max_tokens_per_doc": 5}, {"max_tokens_per_doc": 7}, Truncation(max_document_tokens=5)),
    ],
)
def test_of_dashscope_s_options_those_in_parameters_go_first(parameters, beside, truncation):
    assert dashscope(parameters, **beside).truncation == truncation


@pytest.mark.parametrize(
    ("parameters", "raw"), [({"use_activation": True}, False), ({"raw_scores": False}, False), ({}, True)]
)
def test_of_dashscope_s_two_names_for_raw_scores_that_in_parameters_goes_first(parameters, raw):
    assert dashscope(parameters, raw_scores=True).raw_scores is raw


def test_a_wrong_option_beside_dashscope_s_parameters_is_said(client):
    body = {"input": {"query": "q", "documents": ["a"]}, "truncate": "bogus", "parameters": {"truncation": "END"}}
    with pytest.raises(InvalidRequestError, match="one of NONE, END, START"):
        dashscope(body["parameters"], truncate="bogus")
    assert post(client, PATH, body).status_code == 400
