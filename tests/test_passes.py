"""Explanations in several passes are those of one pass."""

from __future__ import annotations

import copy
import logging

import pytest
import timm
import torch

from tests.conditioning import divides
from tests.conftest import LAYOUTS, POOLED, build, perturbed, pictures
from vitscope import Explainer
from vitscope.errors import MethodError, TargetError, VitscopeError
from vitscope.images import prepare
from vitscope.methods import as_methods, list_methods
from vitscope.targets import Class, Concept, Contrast, Custom, Neighbours, Probability
from vitscope.targets.bank import MemoryBank
from vitscope.targets.names import ClassNames
from vitscope.trace.live import LivePeak

CPU = torch.device("cpu")
SMALL = {
    "integrated_gradients": "integrated_gradients:steps=3",
    "smoothgrad": "smoothgrad:samples=3",
    "rise": "rise:masks=9",
    "tis": "tis:masks=9",
    "scorecam": "scorecam:max_forwards=9",
    "vit_cx": "vit_cx:max_forwards=9",
    "token_ablation": "token_ablation:max_forwards=17",
    "btt": "btt:steps=3",
    "bth": "bth:steps=3",
}
FAST = [facts.name for facts in list_methods() if facts.family not in ("input-gradient", "perturbation")]


def pair(model, limit, **options):
    """An explainer without a limit, and one with it."""
    return Explainer(model, **options), Explainer(model, memory_limit=limit, **options)


def passes_of(model, image, *explainers):
    """A list of the batch sizes of all later calls; the explainers verify the model with its new hook before."""
    sizes = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    for explainer in explainers:
        explainer.features(image)
    sizes.clear()
    return sizes


def told(caplog):
    """What was said of passes."""
    return [record.getMessage() for record in caplog.records if record.name == "vitscope.passes"]


def same(found, wanted):
    assert list(found.attributions) == list(wanted.attributions)
    assert found.failures == wanted.failures
    torch.testing.assert_close(found.logits, wanted.logits)
    for label in wanted:
        for kind in ("values", "blocks", "heads"):
            one, other = getattr(found[label], kind), getattr(wanted[label], kind)
            assert (one is None) == (other is None)
            if one is not None:
                assert one.shape == other.shape
                assert (one - other).norm() <= 1e-4 * other.norm(), (label, kind)


def seed():
    return int(torch.randint(2**31, ()))


@pytest.mark.parametrize(
    "layout",
    [
        "vit",
        "attention_pool",
        *(pytest.param(name, marks=pytest.mark.integration) for name in ("dinov2_registers", "mean")),
    ],
)
def test_every_method_gives_the_same_maps_in_several_passes(layout):
    model = build(layout, dtype=torch.float64, seed=seed())
    images = pictures(model, 5, seed=seed(), dtype=torch.float64)
    free, limited = pair(model, 2**20)
    assert {**LAYOUTS, **POOLED}[layout]
    labels = [
        label
        for name in FAST
        for label, method in as_methods(SMALL.get(name, name)).items()
        if not free.why_not(label, method)
    ]
    sizes = passes_of(model, images[:1], free, limited)
    wanted = free(images, labels, strict=False)
    assert {5} <= set(sizes) <= {1, 5}  # 1: whether its layers have rules is tried once per description
    sizes.clear()
    same(limited(images, labels, strict=False), wanted)
    assert max(sizes) < 5, "one pass took it all; lower the limit"


def test_what_runs_on_altered_pictures_gives_the_same_maps_in_several_passes():
    model = build(seed=seed(), dtype=torch.float64)
    images = pictures(model, 4, seed=seed(), dtype=torch.float64)
    free, limited = pair(model, 200_000)
    labels = [SMALL.get(facts.name, facts.name) for facts in list_methods() if facts.name not in FAST]
    labels = [label for label in labels if not any(free.why_not(*one) for one in as_methods(label).items())]
    assert len(labels) >= 6
    wanted = free(images, labels)
    sizes = passes_of(model, images[:1], free, limited)
    same(limited(images, labels), wanted)
    assert sizes[0] == 1


def bank_of(width):
    return MemoryBank(torch.randn(60, width), torch.arange(60) % 7, ClassNames(tuple("abcdefg")), {})


def one_an_image(images, model):
    weights = torch.randn(len(images), 7, dtype=images.dtype)
    return Custom(lambda output: (output * weights).sum(dim=1))


@pytest.mark.parametrize(
    "make",
    [
        lambda images, model: Class(tuple(torch.randint(7, (len(images),)).tolist())),
        lambda images, model: Class(3),
        lambda images, model: Probability(tuple(torch.randint(7, (len(images),)).tolist())),
        lambda images, model: Contrast(1, 4),
        lambda images, model: Concept(torch.randn(24, dtype=images.dtype)),
        lambda images, model: Neighbours(bank_of(24), k=5),
        one_an_image,
    ],
)
def test_targets_stay_those_of_their_images(make):
    model = build(dtype=torch.float64, seed=seed())
    images = pictures(model, 5, seed=seed(), dtype=torch.float64)
    free, limited = pair(model, 400_000)
    target = make(images, model)
    sizes = passes_of(model, images[:1], free, limited)
    labels = "daam,agcam,cdam,legrad,libra_fullgrad,rise:masks=9,integrated_gradients:steps=3"
    found = limited.each(images, labels, [target, None], strict=False)
    assert max(sizes[:2]) < 5
    for one, other in zip(found, free.each(images, labels, [target, None], strict=False), strict=True):
        same(one, other)
        assert one.subject.asked == other.subject.asked
        assert (one.target is None) == (other.target is None)
        assert one.target is None or torch.equal(one.target, other.target)


def test_a_class_agnostic_method_is_deaf_in_parts_too():
    model = build(seed=seed())
    images = pictures(model, 4, seed=seed())
    free, limited = pair(model, 200_000)
    labels = free(images, "cdam").logits.argmax(dim=1).tolist()
    same(limited(images, "rollout", labels), free(images, "rollout", labels))
    labels[3] = (labels[3] + 1) % 7
    with pytest.raises(TargetError, match="rollout is class-agnostic"):
        limited(images, "rollout", labels)
    with pytest.raises(TargetError, match="3 targets for 4 images"):
        limited(images, "cdam", [0, 1, 2])


def test_evidence_and_features_in_parts():
    model = build(seed=seed())
    images = pictures(model, 5, seed=seed())
    free, limited = pair(model, 300_000)
    sizes = passes_of(model, images[:1], free, limited)
    one, other = limited.evidence(images), free.evidence(images)
    assert sizes[0] == 1
    torch.testing.assert_close(one.all(), other.all())
    torch.testing.assert_close(one.features, other.features)
    torch.testing.assert_close(limited.features(images), free.features(images))


def test_a_windowed_model_in_parts():
    model = perturbed(
        timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=2, depths=(1, 1, 2, 1))
    ).double()
    images = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    free, limited = pair(model, 2**20)
    same(limited(images, "attention"), free(images, "attention"))


def test_a_fault_names_images_of_the_whole_batch():
    model = build()
    images = pictures(model, 4)
    images[3] = 1e30
    limited = Explainer(model, memory_limit=1)
    with pytest.raises(VitscopeError) as error:
        limited(images, "cdam")
    assert "3" in str(error.value)
    flat = pictures(model, 4, seed=seed())
    with torch.no_grad():
        model.head.weight[2] = 0
    with pytest.raises(VitscopeError, match="the cdam map of image 3 is flat"):
        limited(flat, "cdam", [0, 1, 3, 2])


def neighbourhoods(features, labels):
    """Twelve pictures like each image, which have its label."""
    names = ClassNames(tuple(f"kind {label}" for label in range(max(labels) + 1)))
    near = torch.nn.functional.normalize(features, dim=1).repeat_interleave(12, dim=0)
    return MemoryBank.of(near + 1e-3 * torch.randn(near.shape), torch.tensor(labels).repeat_interleave(12), names)


def odd_one(limit):
    """An explainer without a limit and one with it, five images, and one of their numbers but the first."""
    model = build(num_classes=0, seed=seed())
    return *pair(model, limit), pictures(model, 5, seed=seed()), int(torch.randint(1, 5, ()))


@pytest.mark.parametrize("limit", [1, 300_000])
def test_poor_neighbours_are_told_of_the_image_that_has_them(limit, caplog, monkeypatch):
    free, limited, images, odd = odd_one(limit)
    features = free.features(images)
    features[odd] *= -1
    target = Neighbours(neighbourhoods(features, [0, 1, 2, 3, 4]), k=6)
    searched, search = [], MemoryBank.nearest
    for explainer in (free, limited):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "vitscope.targets.features"):
            explainer(images, "daam", target)
        told_of = [one.getMessage() for one in caplog.records if one.name == "vitscope.targets.features"]
        assert [line.split(":")[0] for line in told_of] == [f"image {odd}"]
    monkeypatch.setattr(
        MemoryBank, "nearest", lambda self, rows, k: searched.append(len(rows)) or search(self, rows, k)
    )
    limited(images, "daam", target)
    assert sum(searched) == 5, "an image is searched for in its own part alone"


@pytest.mark.parametrize("limit", [1, 300_000])
def test_an_image_without_neighbours_of_the_class_is_named_in_parts_too(limit):
    free, limited, images, odd = odd_one(limit)
    bank = neighbourhoods(free.features(images), [int(image >= odd) for image in range(5)])
    for explainer in (free, limited):
        with pytest.raises(TargetError, match=f"nearest neighbours of image {odd} is a kind 0"):
            explainer(images, "daam", Neighbours(bank, k=6, label=0))


@pytest.mark.parametrize("limit", [1, 200_000])
def test_progress_in_parts_is_that_of_the_whole_batch(limit):
    model = build(seed=seed())
    images = pictures(model, 5, seed=seed())
    labels = ["rise:masks=12", "token_ablation:max_forwards=17", "vit_cx:max_forwards=9"]
    ends = []
    for explainer in pair(model, limit):
        told: dict[str, list[tuple[int, int]]] = {}
        explainer(images, labels, progress=lambda label, *of, told=told: told.setdefault(label, []).append(of))
        assert list(told) == labels
        for label, calls in told.items():
            done = [one for one, _ in calls]
            assert done == sorted(set(done))
            assert all(one <= total for one, total in calls)
            assert calls[-1][0] == calls[-1][1]
            if not label.startswith("vit_cx"):  # which asks for as many as an image has clusters
                assert len({total for _, total in calls}) == 1
        ends.append({label: calls[-1] for label, calls in told.items()})
    assert ends[0] == ends[1]


def test_too_small_a_limit_is_said_once_and_the_work_is_done(caplog):
    model = build()
    images = pictures(model, 4)
    free, limited = pair(model, "1KB")
    with caplog.at_level(logging.WARNING, "vitscope.passes"):
        same(limited(images, "daam,rollout"), free(images, "daam,rollout"))
        limited(images, "daam,rollout")
    (line,) = told(caplog)
    assert line.endswith("more than the limit of 0.001 MB; going on one at a time")
    with pytest.raises(VitscopeError, match="memory limit 'little': give a number of bytes"):
        Explainer(model, memory_limit="little")


def test_lack_of_memory_halves_the_batch(caplog):
    model = build()
    images = pictures(model, 6)
    sizes, most = [], [100]

    def full(_, inputs):
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > most[0]:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")

    model.register_forward_pre_hook(full)
    explainer = Explainer(model)
    wanted = explainer(images)
    sizes.clear()
    most[0] = 3
    with caplog.at_level(logging.WARNING, "vitscope.passes"):
        same(explainer(images), wanted)
        same(explainer(images), wanted)
    assert sizes == [6, 3, 3, 3, 3]
    assert told(caplog) == ["out of memory with 6 pictures at once; going on with 3"]
    most[0] = 0
    with pytest.raises(MethodError, match="one picture by itself does not fit"):
        explainer(images[:1])


@pytest.mark.parametrize("labels", ["daam,agcam,cdam", "rollout", "chefer", "smooth_cdam", "attnlrp"])
def test_tensors_stay_within_the_limit(labels):
    dtype = torch.float64 if any(map(divides, labels.split(","))) else torch.float32
    model = build(img_size=112, patch_size=8, embed_dim=48, seed=seed(), dtype=dtype)  # 197 tokens
    free = Explainer(model)
    images = prepare(pictures(model, 6, seed=seed(), dtype=dtype), free.preprocessing)
    with LivePeak(CPU) as whole:
        wanted = free(images, labels)
    with LivePeak(CPU) as one:
        free(images.part(slice(0, 1)), labels)
    for limit in (whole.peak // 2, max(one.peak, whole.peak // 4)):
        limited = Explainer(model, memory_limit=limit)
        with LivePeak(CPU) as meter:
            found = limited(images, labels)
        assert meter.peak <= limit
        same(found, wanted)


def test_an_explainer_with_a_limit_travels():
    model = build()
    images = pictures(model, 3)
    limited = Explainer(model, memory_limit=10**6)
    wanted = limited(images)
    same(copy.deepcopy(limited)(images), wanted)
    ray = pytest.importorskip("ray")
    same(ray.cloudpickle.loads(ray.cloudpickle.dumps(limited))(images), wanted)
