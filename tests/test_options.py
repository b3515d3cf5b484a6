"""Options with named choices are held against them, from Python as in words."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

import vitscope
from tests.conftest import build, pictures
from vitscope import methods
from vitscope.errors import MethodError, TargetError, VitscopeError
from vitscope.flow import attention_flow
from vitscope.methods import as_methods, list_methods
from vitscope.methods.registry import method_called
from vitscope.options import check_choice
from vitscope.targets import Concept, Neighbours

CHOICES = [
    (name, field, get_args(hint))
    for name in (facts.name for facts in list_methods())
    for field, hint in get_type_hints(method_called(name)).items()
    if get_origin(hint) is Literal
]


@pytest.fixture(scope="module")
def explainer():
    return vitscope.Explainer(build())


@pytest.mark.parametrize(("name", "field", "allowed"), CHOICES)
def test_a_choice_that_a_method_does_not_have_is_refused_wherever_methods_are_taken(name, field, allowed, explainer):
    assert len(CHOICES) > 20
    right = [dataclasses.replace(method_called(name)(), **{field: choice}) for choice in allowed]
    assert as_methods(dict(zip(allowed, right, strict=True)))
    images = pictures(explainer.anatomy.model)
    for value in (allowed[0].title() + "x", allowed[-1].upper(), allowed[0][:-1], None, 3):
        wrong = dataclasses.replace(right[0], **{field: value})
        for call, given in (
            (explainer, [images, wrong]),
            (partial(explainer, strict=False), [images, [wrong]]),
            (explainer, [images, {"mine": wrong}]),
            (explainer.why_not, ["mine", wrong]),
        ):
            with pytest.raises(MethodError) as error:
                call(*given)
            assert str(error.value).startswith(f"{name}:{field}={value} is not understood; it takes ")
            assert " | ".join(allowed) in str(error.value)


def test_the_nearest_choice_is_offered(explainer):
    images = pictures(explainer.anatomy.model)
    with pytest.raises(MethodError, match=r"agcam:scores=sofmax .*; did you mean softmax"):
        explainer(images, methods.AGCAM(scores="sofmax"))
    with pytest.raises(MethodError, match=r"rows=raed .*all \| read; did you mean read"):
        attention_flow(explainer, images, rows="raed")


def test_targets_too(explainer):
    features = explainer.features(pictures(explainer.anatomy.model))
    with pytest.raises(TargetError, match=r"Concept:similarity=Dot is not understood; it takes dot \| cosine"):
        Concept(features, similarity="Dot")
    bank = Neighbours.among(features, features[:, 0].long() * 0).bank
    with pytest.raises(TargetError, match=r"Neighbours:weighting=Equation .*did you mean equation"):
        Neighbours(bank, k=1, weighting="Equation")


def test_only_choices_are_held():
    check_choice("x", "anything", str, VitscopeError)
    check_choice("x", 4, int | Literal["auto"], VitscopeError)
    check_choice("x", None, Literal["a"] | None, VitscopeError)
    with pytest.raises(VitscopeError, match=r"x=b is not understood; it takes a \| none"):
        check_choice("x", "b", Literal["a"] | None, VitscopeError)
