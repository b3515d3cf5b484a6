"""LibraGrad's backward pass through any network: kernel against written-out attention, and layers without a rule."""

from __future__ import annotations

import timm
import torch
from torch import nn

import vitscope
from tests.conftest import perturbed
from tests.models.test_windowed import MODELS
from tests.recording.test_literal import Encoder
from tests.zoo import NARROW

LABELS = [f"{name}:path=libra" for name in ("daam", "agcam", "grad_sam")]


def swin(fused):
    model = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, num_classes=7, **NARROW)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    return model


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))


def test_windows_fused_and_written_out():
    fused, written = (swin(each).double() for each in (True, False))
    written.load_state_dict(perturbed(fused, by=0.05).state_dict())
    images = torch.randn(2, 3, 56, 56, dtype=torch.float64)
    wanted, found = (vitscope.Explainer(each)(images, [*LABELS, "daam"], 1) for each in (fused, written))
    for label in LABELS:
        close(found[label].values, wanted[label].values)
        assert not torch.allclose(found[label].values, found["daam"].values, rtol=1e-2)


def test_convolutions_and_activations_in_place():
    """MaxViT's SiLU changes its input, which a rule must not read afterwards."""
    model = perturbed(MODELS["maxvit"](), by=0.05)
    assert any(isinstance(module, nn.SiLU) and module.inplace for module in model.modules())
    images = torch.randn(2, 3, 64, 64)
    ex = vitscope.Explainer(model)(images, LABELS, 1)
    alone = vitscope.Explainer(model)(images[1:], LABELS, 1)
    for label in LABELS:
        assert ex[label].values.isfinite().all()
        torch.testing.assert_close(alone[label].values[0], ex[label].values[1], rtol=1e-3, atol=1e-5)


class Waves(Encoder):
    """With a layer that has no rule between attention and head."""

    def forward(self, x):
        return self.head(torch.sin(self.encoder(self.patches(x)))[:, 0])


def test_a_layer_without_a_rule_is_named_and_other_methods_run():
    ex = vitscope.Explainer(perturbed(Waves(True)))(
        torch.randn(1, 3, 32, 32), [*LABELS, "daam", "agcam"], 1, strict=False
    )
    assert {*ex} == {"daam", "agcam"}
    for label in LABELS:
        assert "its backward pass has no rule for sin; use attention, rollout" in ex.failures[label]


class Doubled(Encoder):
    """Its ReLU changes a tensor in place that is read once more."""

    def forward(self, x):
        tokens = self.encoder(self.patches(x))
        torch.nn.functional.relu(tokens, inplace=True)
        return self.head(tokens[:, 0])


def test_a_pass_with_another_output_than_the_models_is_refused():
    ex = vitscope.Explainer(perturbed(Doubled(True)))(torch.randn(1, 3, 32, 32), [*LABELS, "daam"], 1, strict=False)
    assert {*ex} == {"daam"}
    assert "gives another output than the model's own" in ex.failures[LABELS[0]]
