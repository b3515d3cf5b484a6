"""Pains with maps: what they show, of which target, in which numbers and colours. Each test is named after its pain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import vitscope
from tests.conftest import build, pictures
from vitscope.methods import as_methods, list_methods
from vitscope.targets import Contrast, Output, Probability
from vitscope.view.overlay import overlay


def test_06_the_map_of_the_last_block_is_blank():
    """Behind the last block no patch has a gradient, yet every map says something, or why it cannot."""
    model = build()
    seen: list[torch.Tensor] = []
    handle = model.blocks[-1].register_forward_hook(
        lambda _, __, tokens: (tokens.retain_grad(), seen.append(tokens))[1]
    )
    model(pictures(model))[:, 0].sum().backward()
    handle.remove()
    assert not seen[0].grad[:, 1:].any(), "what others take by default: the patches' gradient behind the last block"
    labels = "daam,agcam,cdam,gradcam,hirescam,layercam,xgradcam,legrad,chefer"
    ex = vitscope.Explainer(model)(pictures(model), labels, strict=False)
    shown = [label for label in ex if ex[label].values.std() > 0]
    assert {"daam", "agcam", "cdam", "legrad", "chefer"} <= set(shown)
    assert len(shown) >= 7, ex.failures
    assert all("after its ReLUs no patch speaks for the target" in reason for reason in ex.failures.values())
    assert ex["daam"].blocks[:, -1].amax(dim=(1, 2)).min() > 0
    nn.init.zeros_(model.head.weight)
    with pytest.raises(vitscope.FlatMapError, match="no gradient reaches the class token, as with a head"):
        vitscope.explain(model, pictures(model), "gradcam", 0)


def test_09_batches_come_out_wrong():
    """Every image of a batch gets the map that it gets alone, of its own target; too few targets are an error."""
    model = build()
    explainer, images = vitscope.Explainer(model), pictures(model, 4)
    labels, targets = (
        ["daam", "agcam", "cdam", "rollout", "chefer", "gradcam", "eigengradcam", "layercam"],
        [0, 1, 2, 3],
    )
    of_targets = [label for label in labels if label != "rollout"]
    together = explainer(images, of_targets, targets, strict=False).attributions | (
        explainer(images, "rollout").attributions
    )
    for label in labels:
        if label not in together:
            continue
        for i in range(4):
            alone = explainer(images[i : i + 1], label, None if label == "rollout" else targets[i])[label].values[0]
            torch.testing.assert_close(together[label].values[i], alone, rtol=1e-3, atol=1e-6)
        assert not torch.allclose(together[label].values[0], together[label].values[1], rtol=0.01)
    assert {"daam", "agcam", "cdam", "chefer"} <= together.keys()
    everyone = explainer(images, "cdam", 2)["cdam"].values
    torch.testing.assert_close(everyone, explainer(images, "cdam", [2] * 4)["cdam"].values)
    with pytest.raises(vitscope.TargetError, match="3 targets for 4 images"):
        explainer(images, "daam", [0, 1, 2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_12_half_precision_breaks_maps(dtype):
    """Maps stay nearly those of float32: of half weights, of a precision that was asked for, under autocast."""
    exact = vitscope.Explainer(build())(pictures(build()), "daam,agcam,cdam", 1)

    def close(found: vitscope.Explanation, bound: float) -> None:
        for label in ("daam", "agcam", "cdam"):
            one, other = found[label].values, exact[label].values
            assert one.dtype == torch.float32
            assert torch.isfinite(one).all()
            assert float((one - other).norm() / other.norm()) < bound, label

    model = build(dtype=dtype)
    close(vitscope.Explainer(model)(pictures(model).to(dtype), "daam,agcam,cdam", 1), 0.15)
    short = {torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    close(vitscope.Explainer(build(), running=short)(pictures(build()), "daam,agcam,cdam", 1), 0.15)
    explainer = vitscope.Explainer(build())
    with torch.autocast("cpu", dtype):
        close(explainer(pictures(build()), "daam,agcam,cdam", 1), 1e-6)
        assert torch.is_autocast_enabled("cpu")
    with torch.no_grad():
        model.head.weight.fill_(3e38 if dtype is torch.bfloat16 else 6e4)
    with pytest.raises(vitscope.ModelError, match=r"the model's output for image 0 is not finite"):
        vitscope.explain(model, pictures(model).to(dtype))


def test_13_normalisation_destroys_maps():
    """Raw signed values are kept, also where all are negative; rows are normalised row by row, image by image."""
    model = build()
    explainer, images = vitscope.Explainer(model), pictures(model)
    raw = explainer(images, "cdam", 0)["cdam"].values
    assert raw.min() < 0 < raw.max()
    assert raw.abs().max() not in (1, 255)
    scaled = explainer(images, "cdam", lambda y: 1000 * y[:, 0])["cdam"].values
    torch.testing.assert_close(scaled, 1000 * raw, rtol=1e-4, atol=1e-4)
    rollout = explainer(images, "rollout")["rollout"].values
    twin, seen = build(fused=False), []
    for block in twin.blocks:
        block.attn.attn_drop.register_forward_hook(lambda _, __, matrix: seen.append(matrix.mean(dim=1)))
    with torch.no_grad():
        twin(images)
    for image in range(2):
        product = torch.eye(17)
        for matrix in seen:
            mixed = matrix[image] + torch.eye(17)
            product = (mixed / mixed.sum(dim=-1, keepdim=True)) @ product
        torch.testing.assert_close(rollout[image].flatten(), product[0, 1:], rtol=1e-4, atol=1e-6)
    negative = _drawn(explainer, images, -raw.abs() - 1)
    assert np.ptp(negative, axis=(0, 1)).max() > 40, "an all-negative map is drawn, not blank"
    nn.init.zeros_(model.head.weight)
    with pytest.raises(vitscope.FlatMapError):
        explainer(images, "cdam")


def _drawn(explainer: vitscope.Explainer, images: torch.Tensor, values: torch.Tensor) -> np.ndarray:
    """The colours of a map over a grey picture."""
    geometry = explainer(images, "cdam", 0).subject.geometries[0]
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    shown = torch.nn.functional.interpolate(geometry.to_original(values[0])[None, None], (64, 64))[0, 0]
    return np.asarray(overlay(grey, shown, signed=True), dtype=float)


def test_14_colours_and_overlays_are_off(tmp_path):
    """A red picture stays red, at its own size; what was cut off is no zero evidence; for and against have hues."""
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
    whole = np.asarray(photo)
    same = explainer(whole, "cdam")["cdam"].values
    torch.testing.assert_close(same, explainer(photo, "cdam")["cdam"].values)
    with pytest.raises(vitscope.ImageError, match="ambiguous"):
        explainer(whole / 255.0, "cdam")
    values = torch.zeros(1, 4, 4)
    values[0, 0, 0], values[0, 3, 3] = 1.0, -1.0
    colours = _drawn(explainer, pictures(build(), 1), values)
    for_it, against = colours[4:10, 4:10].mean((0, 1)), colours[-10:-4, -10:-4].mean((0, 1))
    assert for_it[0] > for_it[2] + 30
    assert against[2] > against[0] + 30
    middle = colours[28:36, 28:36].mean((0, 1))
    assert np.ptp(middle) < 15, "no evidence is no colour"


def test_15_the_target_cannot_be_said():
    """Regression, several labels, a contrast, a probability, a class by name; what would be ignored is refused."""
    model = build(num_classes=1)
    explainer, images = vitscope.Explainer(model), pictures(model)
    plus, minus = (explainer(images, "cdam", lambda y, s=s: s * y[:, 0])["cdam"].values for s in (1, -1))
    torch.testing.assert_close(plus, -minus, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(plus, explainer(images, "cdam", Output(0))["cdam"].values)
    model = build()
    names = vitscope.targets.ClassNames(tuple("abcdefg"))
    explainer, images = vitscope.Explainer(model, labels=names), pictures(model)
    one, two = (explainer(images, "cdam", index)["cdam"].values for index in (1, 2))
    torch.testing.assert_close(
        explainer(images, "cdam", Contrast(1, 2))["cdam"].values, one - two, rtol=1e-3, atol=1e-5
    )
    torch.testing.assert_close(explainer(images, "cdam", "b")["cdam"].values, one)
    torch.testing.assert_close(
        explainer(images, "cdam", "b rather than c")["cdam"].values, one - two, rtol=1e-3, atol=1e-5
    )
    assert not torch.allclose(explainer(images, "cdam", Probability(1))["cdam"].values, one, rtol=0.01)
    both = explainer(images, "cdam", lambda y: y[:, 1] + y[:, 2])["cdam"].values
    torch.testing.assert_close(both, one + two, rtol=1e-3, atol=1e-5)
    deaf = [facts.name for facts in list_methods() if not facts.class_specific and not facts.trivial]
    assert {"attention", "rollout", "eigencam"} <= set(deaf)
    for name in deaf:
        with pytest.raises(vitscope.TargetError, match=f"{name} is class-agnostic"):
            explainer(images, list(as_methods(name).values()), lambda y: y[:, 0] - y[:, 1])


def test_20_errors_are_swallowed(capfd):
    """What goes wrong in the model reaches the user as it was raised, also an IndexError, and nothing is printed."""
    for error in (
        IndexError("tuple index out of range"),
        ValueError("odd"),
        RuntimeError("shapes cannot be multiplied"),
    ):
        model = build()
        explainer = vitscope.Explainer(model)

        def broken(*_: object, error: Exception = error) -> None:
            raise error

        model.blocks[1].mlp.register_forward_hook(broken)
        capfd.readouterr()  # a warning in the log that a model says nothing of its preprocessing, where it is shown
        with pytest.raises(type(error)) as caught:
            explainer(pictures(model))
        assert caught.value is error
    with pytest.raises(vitscope.MethodError, match="did you mean daam"):
        explainer(pictures(model), "dam")
    assert capfd.readouterr() == ("", "")
