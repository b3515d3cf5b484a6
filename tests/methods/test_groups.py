"""Groups of methods: what a word stands for, and what becomes of a method that does not apply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import pytest
import torch

import vitscope
from tests.conftest import build, pictures
from tests.zoo import ZOO, built
from vitscope.attribution import by_reason, line_of
from vitscope.methods import FAMILIES, as_method, as_methods, choose, family_of, list_methods, registry
from vitscope.methods.base import Facts, Family

ALL = [facts.name for facts in list_methods()]
SPECIFIC = {facts.name for facts in list_methods() if facts.class_specific}


def members(family):
    return [facts.name for facts in list_methods() if facts.family == family]


FULL = [family for family in FAMILIES if members(family)]


def windowed():
    return next(entry for entry in ZOO if "levit" in entry.name)


def other_class(explainer, images):
    """For each image a class that is not the predicted one."""
    return [(int(row.argmax()) + 1) % len(row) for row in explainer(images, "random").logits]


def test_every_family_is_described():
    assert tuple(FAMILIES) == get_args(Family)
    assert {facts.family for facts in list_methods()} <= FAMILIES.keys()


def test_all_is_the_registry():
    assert list(as_methods("all")) == ALL
    assert choose("all").grouped == set(ALL)
    assert all(method == as_method(name) for name, method in as_methods("all").items())


@pytest.mark.parametrize("family", FULL)
def test_a_family_by_either_name(family):
    assert list(as_methods(f"family:{family}")) == members(family)
    short = list(as_methods(family))
    assert short == ([family] if family in ALL else members(family))


def test_a_method_keeps_its_name_where_a_family_has_it_too():
    assert choose("attention").grouped == set()
    assert list(as_methods("attention")) == ["attention"]
    assert "rollout" in as_methods("family:attention")


def test_a_method_named_by_groups_and_by_itself_is_one():
    chosen = choose("cam, daam:path=skip, papers, rollout, gradcam, all")
    rest = [name for name in ALL if name not in (*members("cam"), *members("papers"), "rollout")]
    assert list(chosen.methods) == [*members("cam"), "daam:path=skip", *members("papers"), "rollout", *rest]
    assert chosen.grouped == set(ALL) - {"rollout", "gradcam"}
    chosen = choose([vitscope.methods.DAAM(), "papers"])
    assert list(chosen.methods) == ["daam", *(name for name in members("papers") if name != "daam")]
    assert "daam" not in chosen.grouped
    changed = {"cam": as_method("cdam")}
    assert choose(changed).methods == changed
    with pytest.raises(vitscope.MethodError, match="daam is named twice"):
        choose("daam,papers,daam")


def test_wrong_families(monkeypatch):
    for words, says in (
        ("family:atention", "unknown family 'atention'; did you mean attention"),
        ("family:zzzz", "unknown family 'zzzz'; known: papers, attention"),
        ("paper", "unknown method 'paper'; did you mean papers"),
        ("xyz", "or all, or a family: papers, attention"),
        ("all:x=1", "all names a group of methods; name one"),
    ):
        with pytest.raises(vitscope.MethodError, match=says):
            as_methods(words)
    kept = {name: method for name, method in registry._METHODS.items() if method.facts.family != "cam"}
    monkeypatch.setattr(registry, "_METHODS", kept)
    with pytest.raises(vitscope.MethodError, match="the family cam has no methods; use one of papers, attention,"):
        as_methods("daam,cam")


@pytest.mark.parametrize("name", ["all", "family"])
def test_no_method_may_have_a_groups_word_for_its_name(name):
    @dataclass(frozen=True)
    class Bad:
        facts = Facts(name, "", "cam", "", 2000, False, False, "1", "")

    with pytest.raises(ValueError, match="names groups"):
        registry.register_method(Bad)


@pytest.mark.parametrize("cost", ["1.04", "about 1.04", "0.3 to 1.04", "1.04 (once)"])
def test_the_cost_is_a_number(cost):
    assert Facts("x", "", "cam", "", 2000, False, False, cost, "").forwards == 1.04
    assert Facts("x", "", "cam", "", 2000, False, False, "4 000, or 2,000", "").forwards == 4000
    assert Facts("x", "", "cam", "", 2000, False, False, "many", "").forwards == float("inf")


def test_every_method_says_what_it_costs():
    assert all(1 <= facts.forwards < float("inf") for facts in list_methods())


def test_a_group_leaves_out_what_a_model_has_not_and_a_name_raises():
    explainer = vitscope.Explainer(built(windowed()))
    images = torch.randn(1, 3, *explainer.anatomy.input_size, generator=torch.Generator().manual_seed(4))
    undefined = {name for name in ALL if explainer.why_not(name, as_method(name))}
    assert "legrad" in undefined
    ex = explainer(images, "all", strict=False, max_forwards=20)
    assert undefined <= ex.left_out
    assert all("is flat" in ex.failures[name] for name in ex.failures.keys() - undefined)
    assert set(ex) == set(ALL) - ex.failures.keys()
    assert ex.failures["legrad"] == explainer.why_not("legrad", as_method("legrad"))
    with pytest.raises(vitscope.MethodError, match="legrad is not defined for"):
        explainer(images, "all,legrad")
    named = explainer(images, "all,legrad", strict=False, max_forwards=20)
    assert named.failures.keys() == ex.failures.keys()
    assert named.left_out == ex.left_out - {"legrad"}
    assert {"daam", "agcam", "cdam"} <= set(explainer(images, "papers,random"))


def test_a_group_leaves_out_what_is_deaf_to_the_target_and_a_name_raises():
    explainer = vitscope.Explainer(build(seed=3))
    images = pictures(explainer.anatomy.model, 1)
    target = other_class(explainer, images)
    ex = explainer(images, "papers,family:attention,trivial", target)
    assert list(ex) == members("papers")
    assert ex.left_out == ex.failures.keys() == {*members("attention"), *members("trivial")} - SPECIFIC
    assert all("is class-agnostic" in reason for reason in ex.failures.values())
    predicted, asked = explainer.each(images, "papers,family:attention", [None, target])
    assert predicted.failures == {}
    assert asked.left_out == set(members("attention")) - SPECIFIC
    with pytest.raises(vitscope.TargetError, match="rollout is class-agnostic"):
        explainer(images, "papers,family:attention,rollout", target)
    with pytest.raises(vitscope.TargetError, match="class-agnostic"):
        explainer(images, "trivial", target)
    assert len(explainer(images, "trivial", target, strict=False).attributions) == 0


def test_without_a_classifier_a_group_keeps_what_explains_no_class():
    explainer = vitscope.Explainer(build(num_classes=0))
    images = pictures(explainer.anatomy.model, 1)
    ex = explainer(images, "papers,family:attention")
    assert ex.left_out == set(members("papers")) | (set(members("attention")) & SPECIFIC)
    assert len(by_reason(ex.failures)) == 1
    for strict in (True, False):
        with pytest.raises(vitscope.TargetError, match="no classifier head"):
            explainer(images, "papers,family:attention,cdam", strict=strict)


def test_any_other_failure_of_a_groups_method_is_a_failure():
    model = build()
    torch.nn.init.zeros_(model.head.weight)
    with pytest.raises(vitscope.FlatMapError, match="head whose weights are zero"):
        vitscope.Explainer(model)(pictures(model), "papers")
    ex = vitscope.Explainer(model)(pictures(model), "papers,random", strict=False)
    assert (list(ex), ex.left_out) == (["random"], frozenset())
    assert ex.failures.keys() == set(members("papers"))


def test_one_map_asked_of_a_group_is_refused():
    model = build()
    with pytest.raises(vitscope.MethodError, match="cam names a group of methods; name one"):
        vitscope.explain(model, pictures(model), "cam")


def test_reasons_are_gathered():
    gathered = by_reason({"a": "a is late; wait", "b": "b is late; wait", "c": "the c map is flat"})
    assert gathered == {"is late; wait": ["a", "b"], "the c map is flat": ["c"]}
    assert line_of(["a", "b"], "is late; wait") == "left out: a, b; each is late; wait"
    assert line_of(["c"], "the c map is flat") == "left out: c; the c map is flat"
    assert [family_of(word) for word in ("agcam:path=full", "rollout", "my own")] == ["papers", "attention", ""]
