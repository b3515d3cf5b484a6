"""The drop-in for pytorch-grad-cam: its targets, layers and transforms, with and without the library."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vitscope
from tests.bridges import fresh
from tests.cheaper import cheaper
from tests.conftest import build, perturbed, pictures
from vitscope import FlatMapError, ImageError, MethodError, TargetError
from vitscope.bridges import CAM
from vitscope.bridges.row_targets import of_rows
from vitscope.bridges.to_grad_cam import _say_once
from vitscope.methods import Facts, Maps, list_methods
from vitscope.targets import Class, Probability
from vitscope.trace import Needs

THEIRS = {
    "gradcam": "GradCAM",
    "gradcam_pp": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "layercam": "LayerCAM",
    "hirescam": "HiResCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
    "scorecam": "ScoreCAM",
}


@pytest.fixture
def library():
    return pytest.importorskip("pytorch_grad_cam", reason="make test-peers installs it", exc_type=ImportError)


@pytest.fixture
def world():
    seed = fresh()
    model = build("non_square", seed=seed)
    return model, pictures(model, 3, seed=seed + 1), [seed % 7, seed % 5, seed % 3]


def on_grid(tokens):
    return tokens[:, 1:, :].reshape(tokens.size(0), 4, 6, tokens.size(2)).transpose(2, 3).transpose(1, 2)


def positive_part(model, label, images, target):
    """By the Explainer at the pixels, each image's from 0 to 1; or None where an image has none."""
    try:
        values = vitscope.Explainer(model)(images, label, target)[label].values
    except FlatMapError:
        return None
    pixels = F.interpolate(values.clamp(min=0)[:, None].double(), images.shape[-2:], mode="bilinear")[:, 0]
    low, high = pixels.amin((1, 2), keepdim=True), pixels.amax((1, 2), keepdim=True)
    return None if (high == 0).any() else (pixels - low) / (high - low)


@dataclass(frozen=True)
class Given:
    """A signed method whose maps are said beforehand, (rows cols) for every image and target."""

    maps: tuple[tuple[float, ...], ...]
    facts: ClassVar[Facts] = Facts("given", "", "papers", "", 2026, True, True, "0", "")
    needs: ClassVar[Needs] = Needs()

    def __call__(self, trace):
        return Maps(values=torch.tensor(self.maps).expand(len(trace.logits), 1, -1, -1))


# -- beside the library ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", THEIRS)
def test_only_the_class_is_another_and_the_numbers_agree(library, world, name):
    model, images, classes = world
    images = images[:1]  # one at a time, since a flat one is refused with its batch
    targets = [library.utils.model_targets.ClassifierOutputTarget(classes[0])]
    if name == "eigencam":
        targets = None
    layers = {"target_layers": [model.blocks[-1].norm1], "reshape_transform": on_grid}
    with getattr(library, THEIRS[name])(model=model, **layers) as cam:
        wanted = cam(input_tensor=images, targets=targets)
        image = cam.get_cam_image
        cam.get_cam_image = lambda *of: -image(*of)  # a singular vector's sign is the linear algebra library's
        turned = cam(input_tensor=images, targets=targets)
    with CAM(model=model, **layers, method=name) as cam:
        try:
            found = cam(input_tensor=images, targets=targets)
        except FlatMapError:
            assert wanted.max() == 0
            return
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype == np.float32
    sides = [wanted, turned] if name.startswith("eigen") else [wanted]
    assert any(np.allclose(found, side, atol=2e-3) for side in sides)


@pytest.mark.parametrize("kind", ["ClassifierOutputTarget", "ClassifierOutputSoftmaxTarget", "ClassifierOutputReST"])
def test_its_targets_mean_here_what_they_mean_there(library, world, kind):
    model, images, classes = world
    targets = [getattr(library.utils.model_targets, kind)(label) for label in classes]
    layers = {"target_layers": [model.blocks[-1].norm1], "reshape_transform": on_grid}
    with library.GradCAM(model=model, **layers) as cam:
        wanted = cam(input_tensor=images, targets=targets)
        outputs = cam.outputs.detach()
    with CAM(model=model, **layers, method="gradcam") as cam:
        try:
            found = cam(input_tensor=images, targets=targets)
        except FlatMapError:
            assert (wanted.max((1, 2)) == 0).any()
            return
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    torch.testing.assert_close(cam.outputs, outputs, rtol=1e-3, atol=1e-4)


def test_no_targets_are_the_predicted_classes_there_too(library, world):
    model, images, _ = world
    with library.LayerCAM(model=model, target_layers=[model.blocks[-1].norm1], reshape_transform=on_grid) as cam:
        wanted = cam(input_tensor=images, targets=None)
    np.testing.assert_allclose(CAM(model, method="layercam")(images), wanted, atol=2e-3)


def test_augmentation_smooths_as_there(library, world):
    model, images, classes = world
    targets = [library.utils.model_targets.ClassifierOutputTarget(label) for label in classes]
    with library.LayerCAM(model=model, target_layers=[model.blocks[-1].norm1], reshape_transform=on_grid) as cam:
        wanted = cam(input_tensor=images, targets=targets, aug_smooth=True)
    found = CAM(model, method="layercam")(images, targets, aug_smooth=True)
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_its_overlay_takes_the_map(library, world):
    model, images, classes = world
    targets = [library.utils.model_targets.ClassifierOutputTarget(label) for label in classes]
    shown = CAM(model, method="agcam")(images, targets)
    picture = images[0].permute(1, 2, 0).sigmoid().numpy()
    drawn = library.utils.image.show_cam_on_image(picture, shown[0], use_rgb=True)
    assert (drawn.shape, drawn.dtype) == ((32, 48, 3), np.uint8)
    blank = library.utils.image.show_cam_on_image(picture, np.zeros_like(shown[0]), use_rgb=True)
    assert not np.array_equal(drawn, blank)


@pytest.mark.parametrize("facts", [one for one in list_methods() if one.class_specific], ids=lambda one: one.name)
def test_a_class_of_the_library_is_the_class_itself(library, world, facts):
    model, images, classes = world
    label = cheaper(facts.name)
    targets = [library.utils.model_targets.ClassifierOutputTarget(np.int64(one)) for one in classes]
    wanted = positive_part(model, label, images, classes)
    if wanted is None:
        with pytest.raises(FlatMapError):
            CAM(model, method=label)(images, targets)
    else:
        np.testing.assert_allclose(CAM(model, method=label)(images, targets), wanted, atol=1e-3)


def test_the_librarys_classes_are_recognised_and_no_others(library):
    known = library.utils.model_targets
    assert of_rows([known.ClassifierOutputTarget(torch.tensor(3)), known.ClassifierOutputTarget(1)]) == Class((3, 1))
    assert of_rows([known.ClassifierOutputSoftmaxTarget(3)]) == Probability((3,))
    mixed = of_rows([known.ClassifierOutputTarget(3), known.ClassifierOutputSoftmaxTarget(3)])
    assert mixed.describe().startswith("the function ClassifierOutputTarget or ClassifierOutputSoftmaxTarget of each")
    output = torch.randn(2, 7)
    assert torch.equal(mixed.score(output), torch.stack([output[0, 3], output[1].softmax(0)[3]]))


# -- without it --------------------------------------------------------------------------------------------------------


def test_the_positive_part_from_0_to_1_and_the_models_output():
    model = build(seed=fresh())
    images = pictures(model)
    cam = CAM(model=model, method=Given(((-3.0, 0.0, 2.0, 4.0), (1.0, 1.0, 1.0, 1.0), (-1.0,) * 4, (-9.0,) * 4)))
    assert cam.outputs is None
    found = cam(images, targets=[lambda row: row[1]] * 2)
    centres = found[:, 4::8, 4::8] / 2 + found[:, 3::8, 3::8] / 2  # of patches, half a pixel beside
    assert found.shape == (2, 32, 32)
    assert (found.min(), found.max()) == (0, 1)
    assert np.array_equal(found[:, :3, :3], np.zeros((2, 3, 3)))  # -3 is cut off before pixels are interpolated
    assert np.array_equal(found[:, 21:], np.zeros((2, 11, 32)))
    np.testing.assert_allclose(centres[:, 0, 2:], [[0.5, 1]] * 2, atol=0.1)
    torch.testing.assert_close(cam.outputs, model(images).detach(), rtol=1e-3, atol=1e-4)


def test_augmentation_holds_the_class_that_was_predicted(world):
    model, _, _ = world
    images = pictures(model, 200, seed=fresh())
    images = images[model(images).argmax(1) != model(images.flip(-1)).argmax(1)][:2]  # the mirrored look like another
    assert len(images) == 2
    predicted = model(images).argmax(1).tolist()
    cam, held = CAM(model, method="layercam"), [lambda row, label=label: row[label] for label in predicted]
    found = cam(images, aug_smooth=True)
    np.testing.assert_allclose(found, cam(images, held, aug_smooth=True), atol=1e-3)
    passes = [(flip, factor) for flip in (False, True) for factor in (0.9, 1.0, 1.1)]
    maps = [
        np.flip(cam(factor * images.flip(-1), held), -1) if flip else cam(factor * images, held)
        for flip, factor in passes
    ]
    np.testing.assert_allclose(found, np.mean(maps, axis=0), atol=1e-3)
    assert CAM(model, method="attention")(images, aug_smooth=True).shape == (2, 32, 48)


def test_layers_and_transform_are_said_once_to_be_unneeded(world, caplog):
    model, images, _ = world
    _say_once.cache_clear()
    other = {"target_layers": [model.blocks[0].mlp], "reshape_transform": lambda tokens: 1 / 0}
    with caplog.at_level(logging.WARNING, "vitscope"):
        for _ in range(3):
            with CAM(model=model, **other, method="attention") as cam:
                found = cam(input_tensor=images)
    (said,) = [record.message for record in caplog.records if "vitscope.bridges" in record.name]
    assert said == (
        "target_layers and reshape_transform: not needed for attention; vitscope finds out where patches are"
    )
    assert np.array_equal(found, CAM(model, method="attention")(images))


@pytest.mark.parametrize("method", THEIRS)
def test_a_layer_that_would_change_the_meaning_is_refused(world, method):
    model, _, _ = world
    words = rf"{method} is read at blocks\.2\.norm1, and target_layers names"
    with pytest.raises(MethodError, match=rf"{words} blocks\.1\.norm1, which would give another map; leave"):
        CAM(model, [model.blocks[1].norm1], method=method)
    with pytest.raises(MethodError, match=rf"{words} blocks\.1\.norm1, blocks\.2\.norm1, which"):
        CAM(model, [model.blocks[1].norm1, model.blocks[2].norm1], method=method)
    with pytest.raises(MethodError, match=f"{words} Identity, which"):
        CAM(model, [torch.nn.Identity()], method=method)
    with pytest.raises(MethodError, match=f"{words} none, which"):
        CAM(model, [], method=method)


def test_a_transform_that_would_change_the_meaning_is_refused(world):
    model, images, _ = world
    layer = [model.blocks[-1].norm1]
    there = "tokens before the patches: 1, patches: 4 rows of 6; leave reshape_transform out"
    for transform, words in (
        (lambda tokens: on_grid(tokens).flip(-1), "gives another order or shape than the patches'"),
        (lambda tokens: on_grid(tokens).transpose(2, 3), "gives another order or shape than the patches'"),
        (lambda tokens: tokens[:, :-1].unflatten(1, (4, 6)).permute(0, 3, 1, 2), "gives another order or shape"),
        (lambda tokens: tokens[:, 1:].unflatten(1, (5, 5)), r"fails \(RuntimeError\)"),
    ):
        with pytest.raises(MethodError, match=words) as refusal:
            CAM(model, layer, transform, method="eigencam")(images)
        assert str(refusal.value).endswith(there)
    wanted = CAM(model, method="eigencam")(images)
    assert np.array_equal(CAM(model, layer, on_grid, method="eigencam")(images), wanted)


def test_a_model_in_the_wrapper_that_the_librarys_tutorial_advises(world):
    transformers = pytest.importorskip("transformers")
    _, images, classes = world
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 48}
    config = transformers.ViTConfig(**sizes, image_size=(32, 48), patch_size=8, num_labels=7)

    class ToTensor(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = transformers.ViTForImageClassification(config)

        def forward(self, x):
            return self.model(x).logits

    model = perturbed(ToTensor(), torch.Generator().manual_seed(fresh()))
    inner, asked = model.model.vit, [lambda row, label=label: row[label] for label in classes]
    wanted = positive_part(model, "layercam", images, classes)
    with CAM(model, [inner.layers[-1].layernorm_before], on_grid, method="layercam") as cam:
        if wanted is None:
            with pytest.raises(FlatMapError):
                cam(images, asked)
        else:
            np.testing.assert_allclose(cam(images, asked), wanted, atol=1e-3)
    with pytest.raises(MethodError, match=r"layercam is read at model\.vit\.layers\.2\.layernorm_before, and"):
        CAM(model, [inner.layernorm], on_grid, method="layercam")


def test_what_is_refused(world):
    model, images, _ = world
    cam = CAM(model, method="layercam")
    first = lambda row: row[1]  # noqa: E731
    with pytest.raises(MethodError, match="eigen_smooth needs the channels of a layer"):
        cam(images, eigen_smooth=True)
    with pytest.raises(TargetError, match="1 targets for 3 images"):
        cam(images, [first])
    with pytest.raises(TargetError, match="0 targets for 3 images"):
        cam(images, [])
    for targets in ([281], 281, first, [first, 281, first]):
        with pytest.raises(TargetError, match=r"targets takes a list of functions, one an image: \[ClassifierOutput"):
            cam(images, targets)
    with pytest.raises(TargetError, match=r"the target of image 1 gives \(7,\); give a function that gives one number"):
        cam(images, [first, lambda row: row, first])
    with pytest.raises(TargetError, match="the target of image 0 gives float"):
        cam(images, [lambda row: 1.0] * 3)
    with pytest.raises(TargetError, match="attention is class-agnostic"):
        CAM(model, method="attention")(images, [first] * 3)
    with pytest.raises(ImageError, match=r"torch\.uint8 is no input of the model"):
        cam(images.byte())
    with pytest.raises(TypeError, match="use_cuda"):
        CAM(model=model, target_layers=None, use_cuda=True)


def test_a_map_without_a_positive_part_is_refused():
    model = build()
    negative = Given(tuple((-1.0, -2.0, -3.0, 0.0) for _ in range(4)))
    with pytest.raises(FlatMapError, match=r"no patch of image 0 speaks for the target, so that given.* has no"):
        CAM(model, method=negative)(pictures(model))


def test_an_exception_within_the_block_is_not_swallowed(world):
    model, _, _ = world
    with pytest.raises(IndexError), CAM(model, method="agcam"):
        [][0]
