"""Orders that are answered together get what each would get alone; a failure is its own picture's."""

from __future__ import annotations

import json
import random

import pytest
import torch
from benchmarks.serve import difference

from tests.conftest import build
from vitscope import Explainer
from vitscope.errors import VitscopeError
from vitscope.images import Batch, Preprocessing, prepare
from vitscope.report import content_of, lens_of
from vitscope.serve.answers import Answerer
from vitscope.serve.job import StoppedError
from vitscope.serve.limits import Limits
from vitscope.serve.orders import Order, Question, question_of

pytestmark = pytest.mark.integration

LIMITS = Limits(max_forwards=20)


def nothing(*_):
    return None


def order(explainer, pictures, methods="daam,agcam,cdam", target="", lens=True, concept=None):
    batch = pictures if isinstance(pictures, Batch) else prepare(pictures, explainer.preprocessing)
    question = question_of(explainer, methods, target, concept is not None, LIMITS)
    return Order("scenes", batch, question, concept, lens)


def answers(explainer, *orders, progress=nothing, go_on=nothing):
    return list(Answerer("scenes", explainer, LIMITS.max_forwards).answers(orders, progress, go_on))


def due(explainer, picture, methods="daam,agcam,cdam", target="", lens=True, pictures=1):
    found = explainer(picture, methods, target or None, strict=False, max_forwards=LIMITS.max_forwards)
    (record,) = content_of(found, lens_of(explainer, picture) if lens else None, pictures)["pictures"]
    return record


def check(answer, *wanted):
    assert isinstance(answer, bytes), answer
    found = json.loads(answer)["pictures"]
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert not difference(one, other | {"name": one["name"]})


TARGETS = {
    "predicted": [""],
    "class": ["3", "red striped disc", "11", "blue dotted ring"],
    "probability": ["probability of 2", "probability of blue dotted ring"],
    "contrast": ["red striped disc rather than 4"],
}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("methods", ["daam,agcam,cdam", "gradcam,rise,smoothgrad:samples=3"])
def test_each_gets_what_it_would_get_alone(kind, methods, explainer, scene):
    asked = [(random.choice(TARGETS[kind]), random.randint(1, 3)) for _ in range(4)]
    orders, wanted, number = [], [], 0
    for target, count in asked:
        images = [scene(number + index) for index in range(count)]
        number += count
        orders.append(order(explainer, images, methods, target))
        wanted.append([due(explainer, image, methods, target, pictures=count) for image in images])
    assert len({one.kind for one in orders}) == 1
    found = answers(explainer, *orders)
    for answer, records in zip(found, wanted, strict=True):
        check(answer, *records)


def test_the_lens_is_left_out_where_it_is_not_wanted(explainer, scene):
    (answer,) = answers(explainer, order(explainer, [scene(0)], lens=False))
    check(answer, due(explainer, scene(0), lens=False))
    assert json.loads(answer)["pictures"][0]["lens"]["form"] == "none"


def test_a_lens_of_factors_and_one_of_single_maps_are_cut_apart_too(scene):
    wide = build(num_classes=400)
    pooled = build("mean")
    for model, form in ((wide, "factors"), (pooled, "maps")):
        explainer = Explainer(
            model, preprocessing=Preprocessing((32, 32), "bicubic", 1.0, "center", (0.5,) * 3, (1,) * 3)
        )
        orders = [order(explainer, [scene(0), scene(1)], "cdam"), order(explainer, [scene(2), scene(3)], "cdam")]
        found = answers(explainer, *orders)
        for answer, first in zip(found, (0, 2), strict=True):
            images = [scene(first), scene(first + 1)]
            lens = lens_of(explainer, images)
            content = json.loads(answer)
            assert content["pictures"][0]["lens"]["form"] == form
            wanted = content_of(explainer(images, "cdam", strict=False), lens)
            check(answer, *wanted["pictures"])
            assert not difference(content["shared"], wanted["shared"])


def test_a_concept(explainer, scene):
    from vitscope.targets import Concept

    shown = prepare([scene(5), scene(6)], explainer.preprocessing).tensor
    (answer,) = answers(explainer, order(explainer, [scene(0), scene(1)], concept=shown))
    concept = Concept(explainer.features(shown), name="the concept of 2 pictures")
    check(answer, *[due(explainer, scene(i), target=concept, pictures=2) for i in (0, 1)])
    assert json.loads(answer)["pictures"][0]["asked"] == "the concept of 2 pictures (dot)"


def test_what_goes_alone(explainer, scene):
    shown = prepare([scene(5)], explainer.preprocessing).tensor
    assert order(explainer, [scene(0)], concept=shown).kind is None
    assert order(explainer, [scene(0)], "attention,cdam", "3").kind is None  # which may be refused by the picture
    assert order(explainer, [scene(0)], "attention,cdam").kind is not None


def test_orders_of_other_methods_or_with_a_lens_are_of_another_kind(explainer, scene):
    kinds = {
        order(explainer, [scene(0)], methods, target, lens).kind
        for methods in ("cdam", "daam")
        for target in ("", "3", "probability of 3", "2 rather than 3", "3 rather than 2")
        for lens in (True, False)
    }
    assert len(kinds) == 20


def blank(explainer):
    """A picture of which all patches are alike to `attention`, so that its map is flat."""
    size = explainer.preprocessing.size
    return Batch.join([prepare(torch.zeros(1, 3, *size), explainer.preprocessing)])


@pytest.fixture
def picky(explainer, monkeypatch):
    """The explainer refuses each pass that holds an all-zero picture, and counts passes."""
    whole, sizes = Explainer.__call__, []

    def call(self, images, *rest, **options):
        sizes.append(len(images))
        if (images.tensor.flatten(1).abs().amax(dim=1) == 0).any():
            raise VitscopeError("it is blank")
        return whole(self, images, *rest, **options)

    monkeypatch.setattr(Explainer, "__call__", call)
    return sizes


def test_a_picture_that_fails_the_pass_harms_nobody_else(explainer, scene, picky):
    orders = [order(explainer, [scene(0)]), order(explainer, blank(explainer)), order(explainer, [scene(1), scene(2)])]
    first, bad, last = answers(explainer, *orders)
    assert picky == [4, 1, 1, 1, 1]
    assert isinstance(bad, VitscopeError)
    assert str(bad) == "it is blank"
    check(first, due(explainer, prepare([scene(0)], explainer.preprocessing)))
    check(last, *[due(explainer, prepare([scene(i)], explainer.preprocessing), pictures=2) for i in (1, 2)])


def test_of_several_pictures_the_failing_one_is_named(explainer, scene, picky):
    pictures = Batch.join([prepare([scene(0)], explainer.preprocessing), blank(explainer)])
    (bad,) = answers(explainer, order(explainer, pictures))
    assert str(bad) == f"{pictures.names[1]}: it is blank"


def test_an_error_that_is_nobodys_mistake_is_handed_back_for_its_own_order(explainer, scene, monkeypatch):
    whole = Explainer.__call__

    def call(self, images, *rest, **options):
        if (images.tensor == 0).all(dim=3).any():
            raise RuntimeError("a kernel is broken")
        return whole(self, images, *rest, **options)

    monkeypatch.setattr(Explainer, "__call__", call)
    good, bad = answers(explainer, order(explainer, [scene(0)]), order(explainer, blank(explainer)))
    assert isinstance(good, bytes)
    assert isinstance(bad, RuntimeError)


def test_a_method_that_fails_on_one_picture_is_missing_from_that_one_alone(explainer, scene):
    """A class-agnostic method of one's prediction, and of another class: on one picture each."""
    pictures = prepare([scene(0), scene(1), scene(2)], explainer.preprocessing)
    predicted = explainer(pictures, "cdam").logits.argmax(dim=1).tolist()
    (answer,) = answers(explainer, order(explainer, pictures, "attention,cdam", str(predicted[1])))
    found = json.loads(answer)["pictures"]
    for record, top in zip(found, predicted, strict=True):
        labels = [one["label"] for one in record["methods"]]
        assert labels == (["attention", "cdam"] if top == predicted[1] else ["cdam"])
        if top != predicted[1]:
            assert record["failures"][0]["methods"] == ["attention"]
            assert "class-agnostic" in record["failures"][0]["reason"]
    check(
        answer,
        *[
            due(explainer, pictures.part(slice(i, i + 1)), "attention,cdam", str(predicted[1]), pictures=3)
            for i in range(3)
        ],
    )


def test_where_nothing_is_left_the_reason_is_the_answer(explainer, scene):
    other = str((int(explainer(scene(0), "cdam").logits.argmax()) + 1) % 12)
    (answer,) = answers(explainer, order(explainer, [scene(0)], "attention", other))
    assert isinstance(answer, VitscopeError)
    assert "attention is class-agnostic" in str(answer)


def test_one_that_nobody_waits_for_is_stopped_between_two_forwards(explainer, scene):
    told = []

    def progress(label, done, total):
        told.append((label, done, total))
        if done >= 8:
            raise StoppedError

    with pytest.raises(StoppedError):
        answers(explainer, order(explainer, [scene(0)], "rise"), progress=progress)
    assert told == [("rise", 8, 20)]
    check(answers(explainer, order(explainer, [scene(0)]))[0], due(explainer, scene(0)))  # the model is as it was


def test_the_servers_folders_are_not_told(explainer, scene, monkeypatch):
    monkeypatch.setattr(explainer, "source", {"model": "/home/me/models/mine", "weights": "/home/me/w.safetensors"})
    (answer,) = answers(explainer, order(explainer, [scene(0)]))
    assert json.loads(answer)["pictures"][0]["provenance"]["model"]["weights"] == "w.safetensors"
    assert "/home/me" not in answer.decode()


def test_a_question_without_methods_takes_what_is_defined():
    pooled = Explainer(
        build("mean"), preprocessing=Preprocessing((32, 32), "bicubic", 1.0, "center", (0.5,) * 3, (1,) * 3)
    )
    assert question_of(pooled, "", "", False, LIMITS).methods == "daam,agcam,cdam"
    assert isinstance(question_of(pooled, " , ", "", False, LIMITS), Question)


def test_a_model_without_a_classifier_asks_for_a_concept():
    bare = Explainer("scenes-ssl")
    with pytest.raises(VitscopeError, match="predicts no class; give pictures of a concept"):
        question_of(bare, "", "", False, LIMITS)
    assert question_of(bare, "", "", True, LIMITS).aim is None
    assert question_of(bare, "attention", "", False, LIMITS).aim is not None


@pytest.mark.parametrize(
    ("methods", "target", "says"),
    [
        ("dam", "", "unknown method 'dam'; did you mean"),
        ("cdam:x=1", "", "cdam has no option 'x'"),
        ("cdam,cdam", "", "named twice"),
        ("rise:masks=0", "", "give at least 1"),
        ("rise:max_forwards=21", "", "rise:max_forwards=21: max_forwards can be 20 here at most"),
        ("smooth_cdam:samples=1000000000", "", "samples can be 50 here at most"),
        ("smoothgrad:noise=nan", "", "noise=nan is not understood"),
        ("tis:seed=-1", "", "give 0 or more"),
        ("rise:cells=10000", "", "cells can be 20 here at most"),
        ("rise:seed=99999999999999999999", "", "seed can be 2147483648 here at most"),
        (",".join(f"random:seed={i}" for i in range(65)), "", "65 methods; name 64 at most"),
        ("cdam", "unicorn", "no class is called 'unicorn'"),
        ("cdam", "12", "class 12 is out of range"),
        ("cdam", "-1", "class -1 is out of range"),
        ("cdam", "²", "no class is called '²'"),
        ("cdam", "--1", "no class is called '--1'"),
        ("cdam", "9" * 400, "no class is called"),
        ("cdam", "1 rather than 99", "class 99 is out of range"),
        ("cdam", "x" * 501, "a target of 501 characters"),
        ("cdam", "/etc/passwd", "no class is called '/etc/passwd'"),
    ],
)
def test_what_is_asked_wrongly_is_refused_before_it_waits(methods, target, says, explainer):
    with pytest.raises(VitscopeError, match=says):
        question_of(explainer, methods, target, False, LIMITS)


def test_a_target_and_a_concept_are_two_targets(explainer):
    with pytest.raises(VitscopeError, match="two targets"):
        question_of(explainer, "", "3", True, LIMITS)
