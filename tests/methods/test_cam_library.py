"""The CAM family against pytorch-grad-cam itself, on random models, batches, and grids that are not square."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import vitscope
from tests.conftest import TINY, perturbed, pictures

library = pytest.importorskip("pytorch_grad_cam", reason="make test-peers installs it", exc_type=ImportError)

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


@pytest.mark.parametrize("size", [(32, 32), (32, 56)])
@pytest.mark.parametrize("name", THEIRS)
def test_a_batch_of_a_random_model(name, size):
    model = perturbed(VisionTransformer(**{**TINY, "img_size": size}))
    images, classes = pictures(model, 3), [4, 0, 6]
    rows, cols = size[0] // 8, size[1] // 8

    def on_grid(tokens):
        return tokens[:, 1:].unflatten(1, (rows, cols)).permute(0, 3, 1, 2)

    kind = getattr(library, THEIRS[name])
    with kind(model=model, target_layers=[model.blocks[-1].norm1], reshape_transform=on_grid) as cam:
        targets = [library.utils.model_targets.ClassifierOutputTarget(label) for label in classes]
        # The patch grid itself: the library's own upsampling is not ours to test.
        cam.get_target_width_height = lambda _: (cols, rows)
        wanted = cam(input_tensor=images.clone().requires_grad_(), targets=targets)
        # A singular vector's sign is the linear algebra library's, and numpy's is not torch's: the other side, too.
        image = cam.get_cam_image
        cam.get_cam_image = lambda *of: -image(*of)
        turned = cam(input_tensor=images.clone().requires_grad_(), targets=targets)
    target = None if name == "eigencam" else classes
    explainer = vitscope.Explainer(model)
    found = explainer(images, name, target, strict=False)
    for index, theirs in enumerate(wanted):
        if name in found:
            ours = found[name].values[index].numpy()
            span = ours.max() - ours.min()
            ours = (ours - ours.min()) / (span + 1e-7)
            sides = [theirs, turned[index]] if name.startswith("eigen") else [theirs]
            assert any(np.allclose(ours, side, atol=2e-3) for side in sides), (name, index)
        else:
            alone = explainer(images[index], name, classes[index], strict=False)
            assert (name in alone.failures) == (theirs.max() == 0)


def test_a_pooled_model_takes_the_gradient_through_its_queries_too():
    model = perturbed(VisionTransformer(**{**TINY, "global_pool": "avg"}))
    images = pictures(model, 2)
    with library.HiResCAM(
        model=model,
        target_layers=[model.blocks[-1].norm1],
        reshape_transform=lambda tokens: tokens[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2),
    ) as cam:
        cam.get_target_width_height = lambda _: (4, 4)
        targets = [library.utils.model_targets.ClassifierOutputTarget(2)] * 2
        wanted = torch.from_numpy(cam(input_tensor=images, targets=targets))
    found = vitscope.Explainer(model)(images, "hirescam", 2)["hirescam"].values
    low, high = found.amin((1, 2), keepdim=True), found.amax((1, 2), keepdim=True)
    assert torch.allclose((found - low) / (high - low), wanted, atol=2e-3)
