"""Our subclasses replace methods that the libraries still have, and still call in the same way."""

import ast
import inspect
from types import FunctionType

import pytest
from upstream.sources import parsed, subclasses
from upstream.uses import DISTRIBUTIONS, NEVER_CALLED, SUBCLASSES

STANDARD = {"http", "socketserver"}
"""Modules of Python that the libraries' classes build on."""

FOUND = subclasses()

EACH = [(base, ours) for base, found in FOUND.items() for ours in found]


def test_every_subclass_of_a_librarys_class_is_known_here():
    assert FOUND.keys() == SUBCLASSES.keys()


@pytest.mark.parametrize(("base", "ours"), EACH)
def test_what_a_subclass_replaces_is_still_the_librarys_and_called_as_before(base, ours):
    for each in SUBCLASSES[base][0]:
        bases = [base for base in ours.__mro__[1:] if base.__module__.split(".")[0] in DISTRIBUTIONS.keys() | STANDARD]
        replaced = next((vars(base)[each] for base in bases if each in vars(base)), None)
        replacement = vars(ours).get(each)
        if not any(each in vars(base) for base in bases):
            assert any(f"self.{each}" in inspect.getsource(base) for base in bases), f"{each} is nowhere"
        elif isinstance(replaced, FunctionType) and replacement is not None:
            parameters = inspect.signature(replaced).parameters.values()
            positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
            inspect.signature(replacement).bind(*positional)


@pytest.mark.parametrize(("base", "ours"), EACH)
def test_a_subclass_leaves_nothing_abstract(base, ours):
    left = {
        each
        for each, method in inspect.getmembers(ours, inspect.isfunction)
        if [ast.unparse(step) for step in _steps(method)]
        in (["raise NotImplementedError"], ["raise NotImplementedError()"])
    }
    assert left == NEVER_CALLED.get(base, set())


def _steps(method):
    body = parsed(method).body[0].body
    return body[1:] if isinstance(body[0], ast.Expr) else body
