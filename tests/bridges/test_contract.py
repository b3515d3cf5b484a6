"""What every method must keep in every bridge, run over the registry on fresh random models, pictures and targets."""

from __future__ import annotations

import copy
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vitscope
from tests.bridges import fresh
from tests.cheaper import cheaper
from tests.conftest import build, perturbed, pictures
from vitscope import FlatMapError, MethodError, ModelError
from vitscope.bridges import CAM, CaptumAttribution, quantus
from vitscope.methods import list_methods

FACTS = {cheaper(facts.name): facts for facts in list_methods()}


def at_pixels(values: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """By torch's own resampling, (b 1 H W)."""
    return F.interpolate(values[:, None].double(), size, mode="bilinear", align_corners=False).numpy()


def by_captum(model, label, images, target):
    return CaptumAttribution(model, label).attribute(images, target=target).numpy()


def by_quantus(model, label, images, target):
    classes = np.array(vitscope.Explainer(model)(images).target.tolist() if target is None else target)
    return quantus(label)(model, images.numpy(), classes, device="cpu", method="Saliency")


@pytest.fixture
def world():
    """A random model in training mode, pictures, and a class each; what the model holds must be the same afterwards."""
    seed = fresh()
    model = build("non_square", seed=seed).train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    yield model, pictures(model, 2, seed=seed + 1), [seed % 7, seed % 5]
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    assert not any(getattr(module, kind) for module in model.modules() for kind in hooks)


@pytest.mark.parametrize("label", FACTS)
def test_captum_and_quantus_get_the_explainers_own_values(world, label):
    model, images, target = world
    target = target if FACTS[label].class_specific else None
    try:
        wanted = vitscope.Explainer(model)(images, label, target)[label].values
    except FlatMapError as error:
        for bridge in (by_captum, by_quantus):
            with pytest.raises(FlatMapError, match=re.escape(str(error))):
                bridge(model, label, images, target)
        return
    pixels = at_pixels(wanted, (32, 48))
    close = {"atol": 1e-5 * float(wanted.abs().max()), "rtol": 1e-5}
    found = by_captum(model, label, images, target)
    assert (found.shape, found.dtype) == ((2, 3, 32, 48), np.float32)
    np.testing.assert_allclose(found, pixels.repeat(3, axis=1), **close)
    found = by_quantus(model, label, images, target)
    assert (found.shape, found.dtype) == ((2, 1, 32, 48), np.float32)
    np.testing.assert_allclose(found, pixels, **close)


@pytest.mark.integration
@pytest.mark.parametrize("label", FACTS)
def test_pytorch_grad_cams_callers_get_the_positive_part_from_0_to_1(world, label):
    model, images, target = world
    targets = asked = None
    if FACTS[label].class_specific:
        targets = [lambda row, index=index: row[index] for index in target]
        asked = lambda output: output[torch.arange(2), target]  # noqa: E731
    with CAM(model=model, method=label) as cam:
        try:
            wanted = vitscope.Explainer(model)(images, label, asked)[label].values
        except FlatMapError as error:
            with pytest.raises(FlatMapError, match=re.escape(str(error))):
                cam(input_tensor=images, targets=targets)
            return
        if not (wanted.amax((1, 2)) > 0).all():
            with pytest.raises(FlatMapError, match="has no positive part"):
                cam(input_tensor=images, targets=targets)
            return
        found = cam(input_tensor=images, targets=targets)
    kept = at_pixels(wanted.clamp(min=0), (32, 48))[:, 0]
    low, high = kept.min((1, 2), keepdims=True), kept.max((1, 2), keepdims=True)
    assert (found.shape, found.dtype) == ((2, 32, 48), np.float32)
    share = float((torch.from_numpy(high[:, 0, 0]) / wanted.abs().amax((1, 2))).min())  # of the map that is positive
    if label == "frame" and (high == low).all():  # where all patches lie at the edge
        assert not found.any()
        return
    np.testing.assert_allclose(found, (kept - low) / (high - low), atol=1e-5 / share)
    assert (found.min(), found.max()) == (0, 1)
    torch.testing.assert_close(cam.outputs, vitscope.Explainer(model)(images, "attention").logits)


def test_signed_methods_keep_their_negative_part_but_where_the_library_has_none():
    model, target = build(seed=fresh()), [1, 5]
    images = pictures(model, 2, seed=fresh())
    wanted = vitscope.Explainer(model)(images, "cdam", target)["cdam"]
    assert wanted.signed
    against = at_pixels(wanted.values, (32, 32))[:, 0] < -1e-6
    assert against.any()
    assert (by_captum(model, "cdam", images, target)[:, 2][against] < 0).all()
    assert (by_quantus(model, "cdam", images, target)[:, 0][against] < 0).all()
    if (wanted.values.amax((1, 2)) > 0).all():
        shown = CAM(model, method="cdam")(images, [lambda row: row[1], lambda row: row[5]])
        assert (shown[at_pixels(wanted.values.clamp(min=0), (32, 32))[:, 0] == 0] == 0).all()


def test_pixels_beyond_the_last_whole_patch_have_no_evidence():
    transformers = pytest.importorskip("transformers")
    seed = fresh()
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 48}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=7)
    model = perturbed(transformers.ViTForImageClassification(config), torch.Generator().manual_seed(seed))
    images = torch.randn(2, 3, 36, 44, generator=torch.Generator().manual_seed(seed))
    pixels = at_pixels(vitscope.explain(model, images, "cdam", [1, 2]).values, (32, 40))
    for found in (by_captum(model, "cdam", images, [1, 2]), by_quantus(model, "cdam", images, [1, 2])):
        assert found.shape[2:] == (36, 44)
        assert not found[:, :, 32:].any()
        assert not found[..., 40:].any()
        np.testing.assert_allclose(found[:, :1, :32, :40], pixels, atol=1e-5 * np.abs(pixels).max(), rtol=1e-4)


BRIDGES = {
    "captum": lambda model, method: CaptumAttribution(model, method),
    "quantus": lambda model, method: quantus(method)(model, np.zeros((1, 3, 32, 32), "float32"), np.array([0])),
    "cam": lambda model, method: CAM(model, method=method),
}


@pytest.mark.parametrize("bridge", BRIDGES)
def test_what_cannot_be_is_refused_in_one_line(bridge):
    make = BRIDGES[bridge]
    for method, words in (
        ("dam", "unknown method 'dam'; did you mean daam"),
        ("cam", "cam names a group of methods; name one method"),
        ("agcam:scores=none", "agcam:scores=none is not understood"),
    ):
        with pytest.raises(MethodError, match=words):
            make(build(), method)
    with pytest.raises(MethodError, match="attcat is not defined for VisionTransformer"):
        make(build("one_block"), "attcat")
    with pytest.raises(ModelError, match="no adapter knows the model class Conv2d"):
        make(torch.nn.Conv2d(3, 3, 3), "daam")


def test_a_method_as_an_object_with_its_options():
    model = build()
    images, method = pictures(model), vitscope.methods.AGCAM(scores="softmax")
    wanted = vitscope.Explainer(model)(images, method, 2)["agcam:scores=softmax"].values
    found = CaptumAttribution(model, method, upsampling="none").attribute(images, target=2)
    assert torch.equal(found[:, 0], wanted)
    by_object, by_words = (by_quantus(model, one, images, [2, 2]) for one in (method, "agcam:scores=softmax"))
    assert np.array_equal(by_object, by_words)


@pytest.mark.integration
def test_none_of_the_libraries_is_imported():
    code = (
        "import sys, vitscope.bridges; "
        "print(*{'captum', 'quantus', 'pytorch_grad_cam', 'cv2'} & {name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert not hasattr(vitscope, "quantus")
