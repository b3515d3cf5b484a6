"""What a user's words mean as a target."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import vitscope
from tests.conftest import build, pictures
from vitscope.errors import TargetError
from vitscope.targets import Class, ClassNames, Contrast, Custom, Output, Predicted, Probability, as_target

NAMES = ClassNames(("tench, Tinca tinca", "crane", "crane", "sea snake"))
OUTPUT = torch.tensor([[1.0, 5.0, 2.0, 0.0], [9.0, 5.0, 2.0, 0.0]])


def test_forms():
    assert as_target(None, NAMES) == Predicted()
    assert as_target(2, NAMES) == as_target("2", NAMES) == as_target(torch.tensor(2).item(), NAMES) == Class(2)
    assert as_target("Sea Snake", NAMES) == Class(3)
    assert as_target("tinca tinca", NAMES) == Class(0)
    assert as_target([1, "sea snake"], NAMES) == as_target(torch.tensor([1, 3]), NAMES) == Class((1, 3))
    assert as_target(np.array([1, 3]), NAMES) == Class((1, 3))
    assert as_target(np.array(1), NAMES) == as_target(np.int64(1), NAMES) == Class(1)
    assert isinstance(as_target(lambda output: output[:, 0], NAMES), Custom)
    assert as_target(Class(1), NAMES) == Class(1)


def test_scores():
    assert Predicted().score(OUTPUT).tolist() == [5.0, 9.0]
    assert Class((2, 0)).score(OUTPUT).tolist() == [2.0, 9.0]
    assert Class(3).classes(OUTPUT).tolist() == [3, 3]
    assert "class 3" in Class(3).describe()
    assert "classes 2, 0" in Class((2, 0)).describe()
    assert Contrast(0, 3).describe(NAMES) == "tench, Tinca tinca rather than sea snake"
    assert Contrast(0, 3).describe() == "class 0 rather than class 3"


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("seasnake", "did you mean sea snake"),
        ("zzzzz", "there are 'tench, Tinca tinca', "),
        ("crane", "several classes"),
        (True, "is no target"),
        (1.5, "is no target"),
    ],
)
def test_wrong_words(target, says):
    with pytest.raises(TargetError, match=says):
        as_target(target, NAMES)


def test_exact_case_goes_first():
    names = ClassNames(("cardigan", "Cardigan, Cardigan Welsh corgi", "maillot", "Maillot, tank suit", "US, us"))
    assert names.index("Cardigan") == 1
    assert names.index("cardigan") == 0
    assert names.index("maillot") == 2
    assert names.index("Maillot") == 3
    assert names.index("cardigan welsh CORGI") == 1
    for name, indices in (("CARDIGAN", "0: cardigan; 1: Cardigan, Cardigan Welsh corgi"), ("MAILLOT", "2: maillot; 3")):
        with pytest.raises(TargetError, match=f"names several classes .{indices}"):
            names.index(name)
    assert names.index("Us") == 4


def test_imagenets_names_and_synsets():
    names = ClassNames.of_imagenet()
    assert names.index("Cardigan") == 264
    assert names.index("cardigan") == 474
    assert names.index("n02123045") == names.index("tabby cat") == 281
    assert as_target("n02123045 rather than n02123159", names) == Contrast(281, 282)
    with pytest.raises(TargetError, match=r"did you mean tabby cat, tiger cat, Persian cat"):
        names.index("cat")
    with pytest.raises(TargetError, match=r"did you mean Egyptian cat\?"):
        names.index("cat Egyptian")
    with pytest.raises(TargetError) as error:
        names.index("dog")
    assert "hotdog" not in str(error.value)
    with pytest.raises(TargetError, match="no class is called 'n99999999'"):
        names.index("n99999999")


def test_in_words():
    names = ClassNames(("cat", "dog, hound", "bird"))
    assert (list(names), names[3]) == (["cat", "dog, hound", "bird"], "output 3")
    assert as_target("hound rather than Cat", names) == Contrast(1, 0)
    assert as_target("2 rather than 0", ClassNames()) == Contrast(2, 0)
    assert as_target("probability of bird", names) == Probability(2)
    with pytest.raises(vitscope.TargetError, match="no class is called 'elk'"):
        as_target("cat rather than elk", names)


def test_names_unknown():
    with pytest.raises(TargetError, match="class names are unknown"):
        as_target("cat", ClassNames())
    assert ClassNames()[7] == "output 7"


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (7, "class 7 is out of range: the model has outputs 0 to 6"),
        (-1, "class -1 is out of range"),
        ([1, 2, 3], "3 targets for 2 images"),
        (lambda output: output, "one value an image"),
        (lambda output: 3.0, "got float"),
        (lambda output: output.argmax(1).float(), "does not depend on the output"),
    ],
)
def test_a_target_that_does_not_fit(target, says):
    model = build()
    with pytest.raises(TargetError, match=says):
        vitscope.Explainer(model)(pictures(model), "cdam", target)


def test_a_function_is_a_target():
    model = build()
    explainer, images = vitscope.Explainer(model), pictures(model)
    two, one, contrast = (
        explainer(images, "cdam", target)["cdam"].values
        for target in (2, 1, lambda output: output[:, 2] - output[:, 1])
    )
    assert torch.allclose(contrast, two - one, atol=1e-5)


def test_class_agnostic_methods_refuse_a_target():
    model = build()
    explainer, images = vitscope.Explainer(model), pictures(model)
    predicted = explainer(images, "attention").target.tolist()
    explainer(images, "attention", predicted)
    for other in ([(c + 1) % 7 for c in predicted], lambda output: output[:, 0]):
        with pytest.raises(TargetError, match="class-agnostic"):
            explainer(images, "attention", other)
    ex = explainer(images, "daam,attention", [(c + 1) % 7 for c in predicted], strict=False)
    assert list(ex) == ["daam"]
    assert "class-agnostic" in ex.failures["attention"]
    with pytest.raises(vitscope.MethodError, match="class-agnostic"):
        ex["attention"]
    with pytest.raises(vitscope.MethodError, match="'dam' was not asked for; did you mean daam"):
        ex["dam"]


def test_labels_files(tmp_path):
    (tmp_path / "names.txt").write_text("cat\n\ndog\n")
    (tmp_path / "synsets.txt").write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish\n")
    (tmp_path / "list.json").write_text('["cat", "dog"]')
    (tmp_path / "imagenet.json").write_text(json.dumps({"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}))
    assert ClassNames.read(tmp_path / "names.txt").names == ("cat", "dog")
    assert ClassNames.read(tmp_path / "synsets.txt").index("goldfish") == 1
    assert ClassNames.read(tmp_path / "list.json").names == ("cat", "dog")
    assert ClassNames.read(tmp_path / "imagenet.json").names == ("tench", "goldfish")
    assert ClassNames.read(tmp_path / "synsets.txt").index("n01443537") == 1
    assert ClassNames.read(tmp_path / "imagenet.json").index("n01443537") == 1
    (tmp_path / "bad.json").write_text('{"a": 1}')
    (tmp_path / "holes.txt").write_text("{0: 'cat', 2: 'dog'}")
    (tmp_path / "call.txt").write_text("{0: open('cat')}")
    (tmp_path / "deep.txt").write_text("[" * 100_000 + "]" * 100_000)
    (tmp_path / "empty.txt").write_text("\n")
    for name in ("bad.json", "empty.txt", "missing.txt", "holes.txt", "call.txt", "deep.txt"):
        with pytest.raises(TargetError, match=name):
            ClassNames.read(tmp_path / name)
    with pytest.raises(TargetError, match="2 labels for a model of 7 outputs"):
        vitscope.Explainer(build(), labels=tmp_path / "names.txt")


@pytest.mark.parametrize(
    "text",
    [
        "{0: 'tench, Tinca tinca',\n 1: 'goldfish',\n 2: \"jack-o'-lantern\"}\n",
        "{1: 'goldfish', 0: 'tench, Tinca tinca', 2: \"jack-o'-lantern\"}",
        '{"0": "tench, Tinca tinca", "1": "goldfish", "2": "jack-o\'-lantern"}',
        "['tench, Tinca tinca', 'goldfish', \"jack-o'-lantern\"]",
        "{0: ('n01440764', 'tench, Tinca tinca'), 1: ('n01443537', 'goldfish'), 2: ('n03590841', \"jack-o'-lantern\")}",
    ],
)
def test_a_labels_file_may_be_a_literal(tmp_path, text):
    (tmp_path / "names.txt").write_text(text)
    names = ClassNames.read(tmp_path / "names.txt")
    assert names.names == ("tench, Tinca tinca", "goldfish", "jack-o'-lantern")
    assert bool(names.synsets) == ("n0" in text)


def test_imagenets_names(shared):
    names = ClassNames.of_imagenet()
    theirs = ClassNames.read(shared / "imagenet" / "LOC_synset_mapping.txt")
    assert len(names) == len(theirs) == 1000
    assert all(
        a.split(",")[0].lower() == b.split(",")[0].lower() for a, b in zip(names.names, theirs.names, strict=True)
    )


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int32, torch.tensor, np.array])
def test_integers_of_any_kind_are_indices(kind):
    first, second = (int(index) for index in np.random.default_rng().choice(4, 2, replace=False))
    assert Class(kind(first)) == Class(first)
    assert Probability((kind(first), kind(second))) == Probability((first, second))
    assert Contrast(kind(first), kind(second)) == Contrast(first, second)
    assert Output(kind(first)) == Output(first)
    assert Class(kind(first)).score(OUTPUT).tolist() == OUTPUT[:, first].tolist()
    assert json.dumps(Class(kind(first)).index) == str(first)


def test_many_indices_in_one_form():
    indices = torch.randint(4, (3,))
    assert Class(indices) == Class(indices.numpy()) == Class(indices.tolist()) == Class(tuple(indices.tolist()))
    assert hash(Class(indices)) == hash(Class(tuple(indices.tolist())))


@pytest.mark.parametrize("wrong", [1.5, "tench", True, None, (1, 2.0), torch.tensor([0.5])])
def test_what_is_no_index_is_refused_at_once(wrong):
    for make in (Class, Probability, Output, lambda index: Contrast(0, index)):
        with pytest.raises(TargetError, match="is no class index; give an integer"):
            make(wrong)


def test_a_number_that_is_another_class_by_name_is_told(caplog):
    grades = ClassNames(("1", "2", "3", "4", "5"))
    assert as_target("1", grades) == Class(1)
    assert caplog.messages == ["'1' is read as an index, that of 2; the class of this name has index 0"]
    caplog.clear()
    assert as_target("1", ClassNames(("0", "1", "2"))) == Class(1)
    assert as_target("1", ClassNames(("tench", "cat"))) == Class(1)
    assert as_target(1, grades) == Class(1)
    assert not caplog.messages
