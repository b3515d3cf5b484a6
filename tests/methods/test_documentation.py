"""What a method's docstring tells, read for listings and pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

import vitscope
from vitscope.methods import document, list_methods, options_of, registry
from vitscope.methods.base import Facts


@dataclass(frozen=True)
class Told:
    """One line of purpose.

    Prose with x = 1 in it, that is no formula
    on its second line.

        set[n] = in
            further

    map[n] = ReLU( sum_k w_k )
    R <- R + A

    Attributes:
        seed: of the draws;
            on two lines: with a colon.

    Raises:
        MethodError: always.
    """

    seed: int = 0
    silent: float = 0.5

    facts: ClassVar[Facts] = Facts("told", "Told", "cam", "p", 2020, False, True, "1.0", "c")


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", {**registry._METHODS, "told": Told})


def test_a_docstring_is_taken_apart(registered):
    found = document("told")
    assert found.paragraphs == (
        (False, "One line of purpose."),
        (False, "Prose with x = 1 in it, that is no formula\non its second line."),
        (True, "set[n] = in\n    further"),
        (True, "map[n] = ReLU( sum_k w_k )\nR <- R + A"),
    )
    told = [(option.name, option.takes, option.default, option.text) for option in found.options]
    assert told == [
        ("seed", "a whole number", 0, "of the draws; on two lines: with a colon."),
        ("silent", "a number", 0.5, ""),
    ]
    assert found.raises == {"MethodError": "always."}
    assert found.text.startswith("One line of purpose.\n\nProse")
    assert found.shared == ()


def test_a_file_of_several_methods_tells_what_they_share():
    lines = [lines for formula, lines in document("gradcam").shared if formula]
    assert any(line.startswith("A[n, k] = t_B[n, k]") for line in lines)
    assert lines[0] in document("gradcam").text
    assert document("daam").shared == ()


@pytest.mark.parametrize("name", [facts.name for facts in list_methods()])
def test_every_option_of_every_method_is_told_of(name):
    found = document(name)
    assert [option.name for option in found.options] == list(options_of(name))
    assert all(option.text for option in found.options), "tell of each option under Attributes:"
    assert found.paragraphs


def test_a_docstring_that_tells_of_another_option_is_an_error(registered, monkeypatch):
    monkeypatch.setattr(Told, "__doc__", Told.__doc__.replace("seed:", "sead:"))
    with pytest.raises(vitscope.MethodError, match="tells of sead"):
        document("told")


def test_wrong_names():
    with pytest.raises(vitscope.MethodError, match="unknown method 'gradcm'; did you mean gradcam"):
        document("gradcm")
    with pytest.raises(vitscope.MethodError, match="cam names a group of methods; name one method"):
        document("cam")
    assert document("attention").facts.name == "attention"
