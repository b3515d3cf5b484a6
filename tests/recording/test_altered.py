"""Methods that run any network on altered inputs, against a description's, Captum's and literal ones."""

from __future__ import annotations

import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn

import vitscope
from tests.conftest import build, perturbed, pictures
from tests.models.test_windowed import MODELS
from tests.recording.test_literal import Encoder
from vitscope.errors import TargetError, VitscopeError
from vitscope.targets import Probability

LABELS = ["rise:masks=24,cells=3", "smoothgrad:samples=3", "integrated_gradients:steps=6", "input_x_gradient"]


class Named(nn.Module):
    """Its logits under a name, which no adapter describes; more inputs, where they are given, shift them."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, shift=None):
        logits = self.model(x if shift is None else x + shift[:, None, None, None])
        return {"scores": logits}


def scores_of(place):
    return lambda output: output["scores"][:, place]


def close(found, wanted, rtol=1e-5):
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=rtol * float(wanted.abs().max()))


@pytest.fixture
def model():
    return build(dtype=torch.float64)


def test_maps_are_those_of_the_description(model):
    images = pictures(model, 2, dtype=torch.float64)
    wanted = vitscope.Explainer(model)(images, LABELS, lambda output: output[:, 2])
    found = vitscope.Explainer(Named(model))(images, LABELS, scores_of(2))
    for label in LABELS:
        close(found[label].values, wanted[label].values)
    trivial = ["random", "center", "frame"]
    logits = vitscope.Explainer(model)(images, trivial)
    of_any = vitscope.Explainer(Encoder(True))(torch.randn(2, 3, 32, 32), trivial)
    for label in trivial[1:]:
        close(of_any[label].values, logits[label].values)
    assert of_any["random"].values.shape == (2, 4, 4)


def test_rise_of_a_predicted_class_by_hand():
    model = perturbed(Encoder(True, channels=12)).eval()
    images = torch.randn(2, 12, 24, 32)
    found = vitscope.Explainer(model)(images, "rise:masks=12,cells=3")["rise:masks=12,cells=3"]
    assert found.values.shape == (2, 3, 4)
    from vitscope.methods.rise import _Masks

    masks = _Masks(12, 3, 0.5, 0, (24, 32)).some(0, 12)
    cells = masks.unfold(1, 8, 8).unfold(2, 8, 8).mean(dim=(-2, -1))
    with torch.no_grad():
        classes = model(images).argmax(dim=1)
        for index in range(2):
            likely = model(images[index] * masks[:, None]).softmax(dim=1)[:, classes[index]]
            close(found.values[index], (likely[:, None, None] * cells).sum(dim=0) / 6, 1e-4)


def test_integrated_gradients_of_a_volume_are_captums():
    model = perturbed(Encoder(True, channels=1, volume=True)).double().eval()
    volumes = torch.randn(2, 1, 16, 24, 16, dtype=torch.float64) * 0.1
    label = "integrated_gradients:steps=6"
    found = vitscope.Explainer(model)(volumes, label, 1)[label]
    wanted = IntegratedGradients(model).attribute(volumes, target=1, n_steps=6).detach()
    by_cell = wanted[:, 0].unflatten(3, (2, 8)).unflatten(2, (3, 8)).unflatten(1, (2, 8)).sum(dim=(2, 4, 6))
    close(found.values.double(), by_cell)


def test_each_sample_keeps_its_other_inputs_and_its_own_function(model):
    explainer = vitscope.Explainer(Named(model))
    images = pictures(model, 3, dtype=torch.float64)
    shift = torch.tensor([0.0, 0.7, -0.4], dtype=torch.float64)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    labels = LABELS[:3]

    def weighed(output):
        return output["scores"][:, 1] * weights

    together = explainer(images, labels, weighed, inputs={"shift": shift})
    for index in range(3):
        weight = weights[index]
        alone = explainer(
            images[index : index + 1],
            labels,
            lambda output, weight=weight: output["scores"][:, 1] * weight,
            inputs={"shift": shift[index : index + 1]},
        )
        for label in labels:
            close(together[label].values[index], alone[label].values[0])


def test_a_function_of_the_whole_batch_in_several_passes(model):
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    images = pictures(model, 4, dtype=torch.float64)
    labels = [*LABELS, "daam", "agcam", "cdam"]

    def weighed(output):
        return output["scores"][:, 1] * weights

    wanted = vitscope.Explainer(Named(model))(images, labels, weighed)
    limited = vitscope.Explainer(Named(model), memory_limit="600KB")
    found = limited(images, labels, weighed)
    for label in labels:
        close(found[label].values, wanted[label].values)
    close(found.output["scores"], wanted.output["scores"])


def test_forwards_are_reported_and_limited():
    explainer = vitscope.Explainer(perturbed(Encoder(True, channels=12)))
    reports = []
    explainer(torch.randn(2, 12, 24, 32), "rise", max_forwards=20, progress=lambda *each: reports.append(each))
    assert reports[-1] == ("rise", 40, 40)
    assert [done for _, done, _ in reports] == sorted(done for _, done, _ in reports)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_same_maps(precision):
    torch.manual_seed(0)
    model = perturbed(MODELS["swin"]())
    images = torch.randn(2, 3, 56, 56)
    labels = ["daam", "agcam", "cdam"]
    wanted = vitscope.Explainer(model)(images, labels, 1)
    found = vitscope.Explainer(model, running=precision)(images, labels, 1)
    for label in labels:
        one, other = found[label].values, wanted[label].values
        assert one.dtype == torch.float32
        assert not torch.equal(one, other)
        assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1] > 0.85, label


def test_probabilities_of_a_network_without_a_description():
    explainer = vitscope.Explainer(perturbed(Encoder(True, channels=12)))
    images = torch.randn(2, 12, 24, 32)
    ex = explainer(images, "daam")
    likely = ex.logits.softmax(dim=1).amax(dim=1)
    assert [ex.subject.prediction(index)["probability"] for index in range(2)] == pytest.approx(likely.tolist())
    several = vitscope.Explainer(explainer._model, activation="sigmoid")(images, "daam")
    assert several.subject.prediction(0)["probability"] == pytest.approx(float(ex.logits[0].sigmoid().amax()))


def test_a_target_that_gives_too_few_values_is_refused(model):
    with pytest.raises(TargetError, match="must give one value for each image"):
        vitscope.Explainer(Named(model))(
            pictures(model, 2, dtype=torch.float64), "rise:masks=4", lambda output: output["scores"].sum()
        )


def test_probabilities_of_one_class_an_image_in_several_passes(model):
    """Of a part of a batch they are still probabilities, and not logits."""
    images, target = pictures(model, 3, dtype=torch.float64), Probability((1, 4, 2), activation="softmax")
    labels = [*LABELS, "daam"]

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x, shift):
            return {"logits": self.model(x + shift[:, None, None, None])}

    wanted = vitscope.Explainer(model)(images, LABELS, target)
    for limit in (None, "600KB"):
        explainer = vitscope.Explainer(Logits(), memory_limit=limit)
        assert not explainer.anatomy.described
        found = explainer(images, labels, target, inputs={"shift": torch.zeros(3, dtype=torch.float64)})
        for label in LABELS:
            close(found[label].values, wanted[label].values)


def test_a_network_without_parameters_is_refused():
    with pytest.raises(VitscopeError, match="has no parameters"):
        vitscope.Explainer(nn.Flatten())
