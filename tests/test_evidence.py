"""Evidence: CDAM of every class from one pass, held against autograd class by class."""

import numpy as np
import pytest
import torch
from torch import nn

import vitscope
from tests import reference
from tests.conftest import LAYOUTS, build, pictures
from vitscope.errors import MethodError, TargetError
from vitscope.models import anatomy_of, load_model
from vitscope.trace import effects_on_features


def relative(found, wanted):
    return float((found - wanted).detach().abs().max() / wanted.detach().abs().max())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_class_equals_autograd_in_float64(layout):
    model = build(layout, seed=int(np.random.default_rng().integers(1000)), dtype=torch.float64)
    images = pictures(model, 2, dtype=torch.float64)
    anatomy = anatomy_of(model)
    found = effects_on_features(anatomy, images)
    assert relative(anatomy.output(found.features), model(images)) < 1e-12
    maps = found.effects.flatten(1, 2) @ anatomy.classifier.weight.T  # b n c
    for c in range(7):
        wanted = reference.cdam(model, images, torch.tensor([c, c]))[:, len(anatomy.prefix) :]
        assert relative(maps[..., c], wanted) < 1e-10


@pytest.mark.parametrize("layout", LAYOUTS)
def test_evidence_equals_the_method(layout):
    model = build(layout)
    images = pictures(model)
    explainer = vitscope.Explainer(model)
    evidence = explainer.evidence(images)
    for c in range(7):
        wanted = explainer(images, "cdam", c)["cdam"].values
        assert relative(evidence[c], wanted) <= 1e-4
        assert relative(evidence.all()[:, c], wanted) <= 1e-4


def test_on_the_golden_images(shared, golden):
    """In float64: the golden file, made in float32, is 1.5e-5 from the exact map, whatever kernels are used here."""
    weights = shared / "weights" / "vit_tiny_patch16_224.safetensors"
    explainer = vitscope.Explainer(load_model("timm/vit_tiny_patch16_224", weights).double())
    evidence = explainer.evidence(torch.from_numpy(golden["images"]))
    for image, classes in enumerate(golden["classes"]):
        for slot, c in enumerate(classes):
            assert relative(evidence[int(c)][image], torch.from_numpy(golden["cdam"][image, slot])) <= 2e-5


@pytest.fixture
def evidence():
    model = build()
    names = vitscope.ClassNames(tuple("abcdefg"))
    return vitscope.Explainer(model, labels=names).evidence(pictures(model, 3))


def test_views_of_the_same_numbers(evidence):
    maps = evidence.all()
    assert maps.shape == (3, 7, 4, 4)
    assert maps.dtype == torch.float32
    assert len(evidence) == 3
    torch.testing.assert_close(evidence["c"], maps[:, 2])
    torch.testing.assert_close(evidence.contrast("b", 4), maps[:, 1] - maps[:, 4])
    torch.testing.assert_close(evidence.at(1, 3), maps[:, :, 1, 3])
    torch.testing.assert_close(evidence.of(evidence.weight[5]), maps[:, 5])
    torch.testing.assert_close(
        evidence.of(evidence.weight[[5, 1, 0]]), torch.stack([maps[0, 5], maps[1, 1], maps[2, 0]])
    )
    classes, top = evidence.top(3)
    assert classes.tolist() == evidence.subject.logits.topk(3).indices.tolist()
    for image in range(3):
        torch.testing.assert_close(top[image], maps[image, classes[image]])


def test_a_patch_tells_for_and_against(evidence):
    scores = evidence.at(2, 2)
    for image, (speaks_for, against) in enumerate(evidence.patch(2, 2, k=3)):
        order = scores[image].argsort(descending=True).tolist()
        assert [o.index for o in speaks_for] == [c for c in order[:3] if scores[image, c] > 0]
        assert [o.index for o in against] == [c for c in order[::-1][:3] if scores[image, c] <= 0]
        assert all(o.name == "abcdefg"[o.index] for o in (*speaks_for, *against))
        assert all(o.value == pytest.approx(float(scores[image, o.index])) for o in speaks_for)


def test_it_can_be_drawn_and_saved(evidence, tmp_path):
    one = evidence.attribution("d")
    torch.testing.assert_close(one.values, evidence[3])
    assert one.to_pixels().shape == (3, 32, 32)
    (folder, *_) = one.save(tmp_path)
    assert (tmp_path / folder / "cdam.png").exists()


def test_a_classifier_that_is_not_affine_still_has_evidence():
    model = build()
    model.head = nn.Sequential(nn.Linear(24, 16), nn.GELU(), nn.Linear(16, 5))
    _is_every_classs_cdam(model, outputs=5)


class _Bottleneck(torch.nn.Module):
    """Its layers are not in the order in which they run."""

    def __init__(self):
        super().__init__()
        self.up, self.down = torch.nn.Linear(16, 5), torch.nn.Linear(24, 16)

    def forward(self, x):
        return self.up(self.down(x).tanh())


class _Bilinear(torch.nn.Module):
    """It has no Linear layer."""

    def __init__(self):
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.randn(24, 6))

    def forward(self, x):
        return (x @ self.matrix).sigmoid()


@pytest.mark.parametrize(("head", "outputs"), [(_Bottleneck, 5), (_Bilinear, 6)])
def test_the_models_own_output_tells_how_many_there_are(head, outputs):
    model = build()  # whose own number of classes is 7
    model.head = head()
    _is_every_classs_cdam(model, outputs)
    assert vitscope.describe(model).facts["outputs"] == outputs


def _is_every_classs_cdam(model, outputs):
    images = pictures(model)
    explainer = vitscope.Explainer(model)
    assert explainer.anatomy.outputs == outputs
    evidence = explainer.evidence(images)
    assert evidence.weight is None
    assert evidence.classes == outputs
    for c in range(outputs):
        assert relative(evidence[c], explainer(images, "cdam", c)["cdam"].values) <= 1e-4
    classes, maps = evidence.top(2)
    torch.testing.assert_close(maps[0, 1], evidence.all()[0, classes[0, 1]])


def test_weights_that_change_change_the_evidence():
    model = build("distilled")
    images = pictures(model)
    explainer = vitscope.Explainer(model)
    before = explainer.evidence(images)[1]
    with torch.no_grad():
        model.head_dist.weight.mul_(3)
    after = explainer.evidence(images)[1]
    assert relative(after, before) > 0.1
    assert relative(after, explainer(images, "cdam", 1)["cdam"].values) <= 1e-4


def test_wrong_use_is_one_clear_line(evidence):
    for call, words in (
        (lambda: evidence[7], "outputs 0 to 6"),
        (lambda: evidence["z"], "no class is called"),
        (lambda: evidence.of(torch.ones(23)), "width 24"),
        (lambda: evidence.of(torch.ones(2, 24)), "one an image"),
        (lambda: evidence.at(4, 0), "not on the grid of 4 x 4"),
        (lambda: evidence.patch(0, -1), "not on the grid"),
        (lambda: evidence.attribution(-1), "outputs 0 to 6"),
    ):
        with pytest.raises(TargetError, match=words):
            call()
    pooled = build("vit", global_pool="avg")
    with pytest.raises(MethodError, match=r"evidence .* pools all tokens; use cdam"):
        vitscope.Explainer(pooled).evidence(pictures(pooled))


def test_evidence_stays_when_the_model_changes():
    model = build()
    evidence = vitscope.Explainer(model).evidence(pictures(model))
    before = evidence[2]
    with torch.no_grad():
        model.head.weight.zero_()
    assert torch.equal(evidence[2], before)


def test_an_attribution_says_what_a_call_says():
    model = build()
    images, c = pictures(model), int(torch.randint(7, ()))
    for explainer in (
        vitscope.Explainer(model, labels=vitscope.ClassNames(tuple("abcdefg"))),
        vitscope.Explainer(model),
    ):
        one, other = explainer.evidence(images).attribution(c).subject, explainer(images, "cdam", c).subject
        assert one.asked == other.asked
        assert torch.equal(one.target, other.target)
        assert one.class_of(1) == other.class_of(1)
        assert one.title(0) == other.title(0)


def test_without_a_classifier_there_is_no_probability():
    model = build(num_classes=0)
    images = pictures(model)
    explainer = vitscope.Explainer(model)
    one, other = explainer.evidence(images).attribution(3), explainer(images, "cdam", vitscope.targets.Class(3))["cdam"]
    assert one.subject.target is other.subject.target is None
    assert one.subject.class_of(0) is None
    assert one.subject.asked == other.subject.asked
    assert relative(one.values, other.values) <= 1e-4


def test_evidence_is_not_iterated(evidence):
    for walk in (list, iter, tuple):
        with pytest.raises(TypeError, match=r"Evidence is not iterable; use evidence\[c\] for c in range"):
            walk(evidence)
