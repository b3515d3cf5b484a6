"""The Captum bridge inside Captum's own tools, and the forms of a target that Captum's code uses."""

from __future__ import annotations

import captum.attr
import captum.metrics
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import visualization

import vitscope
from tests import zoo
from tests.bridges import fresh
from tests.conftest import build, perturbed, pictures
from vitscope import ImageError, MethodError, ModelError, TargetError
from vitscope.bridges import CaptumAttribution


@pytest.fixture
def world():
    seed = fresh()
    model = build("non_square", seed=seed)
    return model, pictures(model, 3, seed=seed + 1), CaptumAttribution(model, "cdam")


def at_pixels(values):
    maps = F.interpolate(values[:, None].double(), (32, 48), mode="bilinear", align_corners=False)
    return maps.float().expand(-1, 3, -1, -1)


def test_pixels_are_those_of_captums_interpolation(world):
    model, images, _ = world
    grid = CaptumAttribution(model, "cdam", upsampling="none").attribute(images, target=2)
    assert grid.shape == (3, 1, 4, 6)
    assert torch.equal(grid[:, 0], vitscope.explain(model, images, "cdam", 2).values)
    for mode in ("bilinear", "nearest"):
        theirs = captum.attr.LayerAttribution.interpolate(grid, (32, 48), interpolate_mode=mode)
        found = CaptumAttribution(model, "cdam", upsampling=mode).attribute(images, target=2)
        torch.testing.assert_close(found, theirs.expand(3, 3, 32, 48), atol=1e-5, rtol=1e-5)


def test_channels_are_alike_as_in_captums_occlusion(world):
    model, images, bridge = world
    theirs = captum.attr.Occlusion(model).attribute(images, (3, 8, 8), strides=(3, 8, 8), target=2)
    found = bridge.attribute(images, target=2)
    assert found.shape == theirs.shape == images.shape
    for one in (found, theirs):
        assert torch.equal(one, one[:, :1].expand_as(one))


@pytest.mark.parametrize("form", ["int", "tensor of one", "scalar tensor", "tuple of one"])
def test_one_class_for_all_images_in_captums_forms(world, form):
    model, images, bridge = world
    target = {"int": 4, "tensor of one": torch.tensor([4]), "scalar tensor": torch.tensor(4), "tuple of one": (4,)}[
        form
    ]
    captum.attr.Saliency(model).attribute(images.clone().requires_grad_(), target=target)  # which takes it too
    wanted = vitscope.explain(model, images, "cdam", [4, 4, 4]).values
    torch.testing.assert_close(bridge.attribute(images, target=target), at_pixels(wanted), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", [list, torch.tensor, lambda classes: [(one,) for one in classes]])
def test_a_class_an_image_in_captums_forms(world, form):
    model, images, bridge = world
    target = form([4, 0, 6])
    captum.attr.Saliency(model).attribute(images.clone().requires_grad_(), target=target)
    wanted = vitscope.explain(model, images, "cdam", [4, 0, 6]).values
    torch.testing.assert_close(bridge.attribute(images, target=target), at_pixels(wanted), atol=1e-5, rtol=1e-5)


def test_no_target_is_the_predicted_class_and_vitscopes_targets_are_understood(world):
    model, images, bridge = world
    predicted = model(images).argmax(1)
    assert torch.equal(bridge.attribute(images), bridge.attribute(images, target=predicted))
    contrast = vitscope.targets.Contrast(1, 5)
    by_function = bridge.attribute(images, target=lambda output: output[:, 1] - output[:, 5])
    torch.testing.assert_close(bridge.attribute(images, target=contrast), by_function, atol=1e-4, rtol=1e-4)


def test_dtype_device_and_graph_are_the_inputs_and_none():
    model = build(dtype=torch.float64)
    images = pictures(model, dtype=torch.float64).requires_grad_()
    found = CaptumAttribution(model, "agcam").attribute(images, 3)
    assert found.dtype == torch.float64
    assert not found.requires_grad
    assert images.grad is None


def test_infidelity(world):
    model, images, bridge = world
    moved = 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(fresh()))
    attributions = bridge.attribute(images, target=2)
    found = captum.metrics.infidelity(
        model, lambda inputs: (moved, inputs - moved), images, attributions, target=2, n_perturb_samples=1
    )
    with torch.no_grad():
        drop = model(images)[:, 2] - model(images - moved)[:, 2]
    wanted = ((attributions * moved).flatten(1).sum(dim=1) - drop) ** 2
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-4, atol=1e-4)


def test_sensitivity_max(world):
    model, images, bridge = world
    moved = 0.1 * torch.randn((6, *images.shape[1:]), generator=torch.Generator().manual_seed(fresh()))
    found = captum.metrics.sensitivity_max(
        bridge.attribute, images, lambda inputs: inputs + moved, n_perturb_samples=2, target=[1, 2, 3]
    )
    maps = vitscope.explain(model, images, "cdam", [1, 2, 3]).values.repeat_interleave(2, dim=0)
    there = vitscope.explain(model, images.repeat_interleave(2, dim=0) + moved, "cdam", [1, 1, 2, 2, 3, 3]).values
    before, after = (at_pixels(one).flatten(1) for one in (maps, there))
    wanted = ((after - before).norm(dim=1) / before.norm(dim=1)).view(3, 2).amax(dim=1)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_noise_tunnel(world):
    model, images, bridge = world
    seed = fresh()
    torch.manual_seed(seed)
    tunnel = captum.attr.NoiseTunnel(bridge)
    found = tunnel.attribute(images, nt_samples=4, nt_samples_batch_size=2, stdevs=0.2, target=[1, 2, 3])
    torch.manual_seed(seed)
    wanted = torch.zeros_like(images)
    for _ in range(2):
        copies = images.repeat_interleave(2, dim=0)
        noisy = copies + torch.normal(0, torch.full_like(copies, 0.2))
        wanted += bridge.attribute(noisy, target=[1, 1, 2, 2, 3, 3]).unflatten(0, (3, 2)).sum(dim=1) / 4
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    assert not tunnel.has_convergence_delta()
    assert not tunnel.multiplies_by_inputs
    assert tunnel.forward_func is model


def test_the_visualization_shows_both_signs(world):
    _, images, bridge = world
    shown = bridge.attribute(images, target=2)[0].permute(1, 2, 0).numpy()
    picture = images[0].permute(1, 2, 0).sigmoid().numpy()
    figure, axes = visualization.visualize_image_attr(
        shown, picture, method="blended_heat_map", sign="all", use_pyplot=False
    )
    assert figure is axes.figure
    drawn = np.asarray(axes.images[-1].get_array())
    assert drawn.shape == (32, 48)
    beyond = np.percentile(np.abs(shown), 98)  # the outliers that Captum cuts
    clear = np.abs(shown[..., 0]) > 1e-3 * beyond
    np.testing.assert_array_equal(np.sign(drawn)[clear], np.sign(shown[..., 0])[clear])


def test_a_tuple_gives_a_tuple(world):
    _, images, bridge = world
    (found,) = bridge.attribute((images,), target=2)
    assert torch.equal(found, bridge.attribute(images, target=2))


def test_a_model_of_any_kind():
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(fresh()))
    anatomy = zoo.adapted()
    perturbed(anatomy.model)
    wanted = vitscope.Explainer(anatomy, preprocessing=vitscope.Preprocessing.of_model(anatomy.model, size=32))
    for model in (anatomy, wanted):
        found = CaptumAttribution(model, "cdam", upsampling="none").attribute(images, target=1)
        assert torch.equal(found[:, 0], wanted(images, "cdam", 1)["cdam"].values)
    bundled = CaptumAttribution("scenes", "cdam").attribute(torch.zeros(1, 3, 96, 96).normal_())
    assert bundled.shape == (1, 3, 96, 96)


def test_a_model_is_not_warned_of_for_its_pictures_come_prepared(caplog):
    CaptumAttribution(build(), "daam")
    assert "how its pictures are prepared" not in caplog.text


def test_what_is_refused(world):
    model, images, bridge = world
    with pytest.raises(TargetError, match=r"2 targets for 3 images; give one target, or one an image"):
        bridge.attribute(images, target=[1, 2])
    with pytest.raises(TargetError, match="class 7 is out of range: the model has outputs 0 to 6"):
        bridge.attribute(images, target=7)
    with pytest.raises(TargetError, match=r"\(1, 2\) selects within an output of 3 axes"):
        bridge.attribute(images, target=(1, 2))
    with pytest.raises(TargetError, match=r"\(1, 2\) selects within an output of 3 axes"):
        bridge.attribute(images, target=[(1, 2)] * 3)
    with pytest.raises(TargetError, match=r"a target of shape \(3, 2\) is none"):
        bridge.attribute(images, target=torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(TargetError, match=r"1\.5 is no target"):
        bridge.attribute(images, target=torch.tensor([1.5, 2, 3]))
    with pytest.raises(TargetError, match="attention is class-agnostic"):
        CaptumAttribution(model, "attention").attribute(images, target=int(model(images)[0].argmin()))
    with pytest.raises(ImageError, match="2 inputs are given, and the model reads one"):
        bridge.attribute((images, images), target=1)
    with pytest.raises(ImageError, match=r"torch\.uint8 is no input of the model"):
        bridge.attribute(images.byte(), target=1)
    with pytest.raises(ImageError, match="ndarray is no input of the model"):
        bridge.attribute(images.numpy(), target=1)
    with pytest.raises(ImageError, match="image 1 of the tensor is not finite"):
        bridge.attribute(images.index_fill(0, torch.tensor(1), torch.nan), target=1)
    with pytest.raises(MethodError, match="additional_forward_args are not handed on"):
        bridge.attribute(images, target=1, additional_forward_args=(1,))
    with pytest.raises(TypeError, match="unexpected keyword argument 'baselines'"):
        bridge.attribute(images, target=1, baselines=0)
    with pytest.raises(MethodError, match="upsampling 'bicubic' is unknown; give bilinear, nearest, none"):
        CaptumAttribution(model, "cdam", upsampling="bicubic")
    with pytest.raises(ModelError, match=r"must be a torch\.nn\.Module or a name"):
        CaptumAttribution(lambda images: model(images), "cdam")
