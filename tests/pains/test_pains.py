"""What users of other tools suffer from, each impossible here; numbers as in the list of pains."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from PIL import Image

import vitscope
from tests.conftest import build, pictures
from vitscope.models import anatomy_of


def test_01_no_reshape_transform_and_no_layer_to_name():
    """A model and a picture are enough; the layout is found and can be printed."""
    for layout in ("vit", "non_square", "distilled", "dinov2_registers"):
        model = build(layout)
        rows, cols = (side // 8 for side in model.patch_embed.img_size)
        assert vitscope.explain(model, pictures(model)).values.shape[1:] == (rows, cols)
        assert f"{rows} x {cols} of 8 x 8 pixels" in repr(vitscope.describe(model))


def test_03_attention_under_the_fused_kernel_is_never_none():
    """Every block's attention is seen, each row a distribution, and the fused kernel ran."""
    from vitscope.targets import Predicted
    from vitscope.trace import Blocks, Needs, record

    model = build()
    assert all(block.attn.fused_attn for block in model.blocks)
    trace = record(anatomy_of(model), pictures(model), Needs(attention=Blocks.ALL), [Predicted()])
    assert len(trace.blocks) == 3
    for block in trace.blocks:
        assert torch.allclose(block.attention.sum(-1), torch.ones(2, 3), atol=1e-5)


def test_05_registers_are_no_patches():
    model = build("dinov2_registers")
    with torch.no_grad():
        model.reg_token *= 50
    assert vitscope.explain(model, pictures(model), "attention").values.shape == (2, 4, 4)


def test_06_the_last_block_gives_no_blank_map():
    """Its patch tokens get no gradient, yet every method's map and DAAM's last frame say something."""
    model = build()
    ex = vitscope.Explainer(model)(pictures(model), "daam,agcam,cdam,attention")
    assert all(ex[label].values.std() > 0 for label in ex)
    assert ex["daam"].blocks[:, -1].max() > 0


@pytest.mark.parametrize("frozen", [False, True])
def test_07_frozen_weights_no_grad_and_inference_mode(frozen):
    model = build().requires_grad_(not frozen)
    explainer = vitscope.Explainer(model)
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            assert explainer(pictures(model))["daam"].values.max() > 0


def test_08_nothing_leaks_and_nothing_stays_behind():
    """Hooks, gradients and live tensors after twenty calls are as many as after two."""

    def alive() -> int:
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    model = build()
    explainer, images = vitscope.Explainer(model), pictures(model)
    counts = []
    for calls in (2, 18):
        for _ in range(calls):
            explainer(images, "daam,agcam,cdam,attention")
        counts.append(alive())
    assert counts[0] == counts[1]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_09_every_image_of_a_batch_gets_its_own_map_and_target():
    model = build()
    explainer, images = vitscope.Explainer(model), pictures(model, 4)
    maps = explainer(images, "daam", [0, 1, 2, 3])["daam"].values
    assert all(maps[i].max() > 0 and not torch.allclose(maps[i], maps[0]) for i in range(1, 4))
    with pytest.raises(vitscope.TargetError, match="3 targets for 4 images"):
        explainer(images, "daam", [0, 1, 2])


def test_12_half_precision_gives_finite_float32_maps():
    for dtype in (torch.float16, torch.bfloat16):
        model = build(dtype=dtype)
        values = vitscope.explain(model, pictures(model).to(dtype)).values
        assert values.dtype == torch.float32
        assert torch.isfinite(values).all()


def test_13_raw_values_are_kept_and_a_flat_map_is_an_error():
    model = build()
    values = vitscope.explain(model, pictures(model), "cdam").values
    assert values.min() < 0 < values.max()
    assert values.abs().max() != 1
    torch.nn.init.zeros_(model.head.weight)
    with pytest.raises(vitscope.FlatMapError):
        vitscope.explain(model, pictures(model), "cdam")


def test_14_overlays_are_rgb_on_the_original_with_the_crop_shown(tmp_path):
    """A pure red picture stays reddest in red, at its own size, and its cut-off part is no zero evidence."""
    photo = Image.fromarray(
        np.random.default_rng(0).integers(0, 40, (30, 80, 3), dtype=np.uint8) + np.uint8([200, 0, 0])
    )
    explainer = vitscope.Explainer(build())
    (folder,) = explainer(photo, "cdam").save(tmp_path)
    shown = np.asarray(Image.open(f"{folder}/cdam.png"), dtype=float)
    assert shown.shape == (30, 80, 3)
    inside = shown[4:-4, 36:44].mean((0, 1))
    assert inside[0] > inside[1] + 20
    assert inside[0] > inside[2] + 20
    outside = shown[:, :10].reshape(-1, 3)
    assert float(np.ptp(outside, axis=1).max()) < 40, "what the model did not see is drawn without colour"


def test_15_regression_contrasts_and_ignored_targets():
    model = build(num_classes=1)
    explainer, images = vitscope.Explainer(model), pictures(model)
    plus, minus = (explainer(images, "cdam", lambda y, s=s: s * y[:, 0])["cdam"].values for s in (1, -1))
    assert torch.allclose(plus, -minus, atol=1e-6)
    model = build()
    with pytest.raises(vitscope.TargetError, match="class-agnostic"):
        vitscope.explain(model, pictures(model), "attention", lambda y: y[:, 0])


def test_20_errors_inside_the_model_reach_the_user():
    model = build()
    explainer = vitscope.Explainer(model)
    model.blocks[1].mlp.fc1 = torch.nn.Linear(5, 5)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        explainer(pictures(model))


def test_22_non_square_and_any_size():
    attribution = vitscope.Explainer(build("dynamic"))(torch.randn(2, 3, 24, 72))["daam"]
    assert attribution.values.shape == (2, 3, 9)
    assert attribution.to_pixels().shape == (2, 24, 72)
