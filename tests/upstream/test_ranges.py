"""The libraries that our code reaches into are those of the ranges in pyproject.toml."""

import tomllib
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from upstream.sources import ROOT
from upstream.uses import DISTRIBUTIONS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

RANGES = {
    canonicalize_name(requirement.name): requirement.specifier
    for requirement in map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["redis"]])
}


@pytest.mark.parametrize("distribution", sorted(DISTRIBUTIONS.values()))
def test_a_library_that_is_reached_into_has_a_range_with_an_end_and_is_in_it(distribution):
    assert {each.operator for each in RANGES[distribution]} == {">=", "<"}
    assert RANGES[distribution].contains(version(distribution)), "these tests saw another version"
