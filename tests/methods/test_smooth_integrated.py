"""Smooth and Integrated CDAM against plain autograd, re-run sample by sample with the same noise."""

import numpy as np
import pytest
import torch
from torch import nn

import vitscope
from tests import reference
from tests.conftest import build, pictures
from vitscope.errors import MethodError
from vitscope.methods import CDAM, IntegratedCDAM, SmoothCDAM
from vitscope.targets import Class, Contrast, Custom, Probability
from vitscope.trace.affine import Affine

CLASSES = (1, 5)


def chosen(logits):
    return logits.gather(1, torch.tensor(CLASSES)[:, None])[:, 0]


def smooth_by_hand(model, images, score, samples, noise, seed, at):
    inputs = reference.last_input(model, images)
    normed = model.blocks[-1].norm1(inputs).detach()
    tokens = inputs if at == "input" else normed
    spread = noise * torch.stack([one.max() - one.min() for one in tokens])[:, None, None]
    generator = torch.Generator().manual_seed(seed)
    total = 0
    for _ in range(samples):
        noisy = tokens + spread * torch.randn(tokens.shape[1:], generator=generator).to(tokens)
        if at == "input":
            total = total + reference.cdam_of_last_block(model, noisy, score)
        else:
            total = total + reference.cdam_of_last_block(model, inputs, score, noisy)
    return total / samples


def integrated_by_hand(model, images, score, steps, at):
    inputs = reference.last_input(model, images)
    normed = model.blocks[-1].norm1(inputs).detach()
    maps = []
    for k in range(1, steps) if at == "input" else range(steps + 1):
        if at == "input":
            maps.append(reference.cdam_of_last_block(model, inputs * k / steps, score))
        else:
            maps.append(reference.cdam_of_last_block(model, inputs, score, normed * k / steps))
    return torch.stack(maps).mean(0)


def check(found, wanted, prefix, bound):
    wanted = wanted[:, prefix:].reshape(found.shape).detach().to(found)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < bound


@pytest.mark.parametrize("at", ["input", "norm"])
def test_smooth_equals_autograd(layout, at):
    seed = int(np.random.default_rng().integers(1000))
    model = build(layout, seed=seed, dtype=torch.float64)
    images = pictures(model, 2, seed=seed, dtype=torch.float64)
    method = SmoothCDAM(samples=3, noise=0.1, seed=seed, at=at)
    explainer = vitscope.Explainer(model)
    found = explainer(images, method, list(CLASSES))
    (label,) = found
    wanted = smooth_by_hand(model, images, chosen, 3, 0.1, seed, at)
    check(found[label].values, wanted, len(explainer.anatomy.prefix), 1e-5)


@pytest.mark.parametrize("at", ["input", "norm"])
def test_integrated_equals_autograd(layout, at):
    seed = int(np.random.default_rng().integers(1000))
    model = build(layout, seed=seed, dtype=torch.float64)
    images = pictures(model, 2, seed=seed, dtype=torch.float64)
    explainer = vitscope.Explainer(model)
    found = explainer(images, IntegratedCDAM(steps=7, at=at), list(CLASSES))
    (label,) = found
    wanted = integrated_by_hand(model, images, chosen, 7, at)
    check(found[label].values, wanted, len(explainer.anatomy.prefix), 1e-5)


@pytest.mark.parametrize("at", ["input", "norm"])
@pytest.mark.parametrize(
    ("target", "score"),
    [
        (Probability(2), lambda y: y.softmax(1)[:, 2]),
        (Contrast(4, 0), lambda y: y[:, 4] - y[:, 0]),
        (Custom(lambda y: y[:, 1] ** 2), lambda y: y[:, 1] ** 2),
    ],
)
def test_targets_whose_gradient_changes_on_the_way(target, score, at):
    model = build(dtype=torch.float64)
    images = pictures(model, 2, dtype=torch.float64)
    explainer = vitscope.Explainer(model)
    methods = [SmoothCDAM(samples=3, at=at), IntegratedCDAM(steps=5, at=at)]
    smooth, integrated = explainer(images, methods, target).attributions.values()
    check(smooth.values, smooth_by_hand(model, images, score, 3, 0.05, 0, at), 1, 1e-5)
    check(integrated.values, integrated_by_hand(model, images, score, 5, at), 1, 1e-5)


def test_another_norm_is_run_sample_by_sample():
    model = build(dtype=torch.float64)
    model.blocks[-1].norm1 = nn.RMSNorm(24, dtype=torch.float64)
    images = pictures(model, 2, dtype=torch.float64)
    found = vitscope.Explainer(model)(images, IntegratedCDAM(steps=5), list(CLASSES))
    check(
        next(iter(found.attributions.values())).values, integrated_by_hand(model, images, chosen, 5, "input"), 1, 1e-5
    )


def test_without_noise_smooth_is_plain_cdam():
    model = build(dtype=torch.float64)
    images = pictures(model, 2, dtype=torch.float64)
    explainer = vitscope.Explainer(model)
    plain, smooth = explainer(images, [CDAM(), SmoothCDAM(samples=2, noise=0.0)]).attributions.values()
    torch.testing.assert_close(plain.values, smooth.values)


def test_the_predicted_class_stays_that_of_the_picture():
    model = build()
    images = pictures(model, 3)
    explainer = vitscope.Explainer(model)
    method = SmoothCDAM(samples=4, noise=2.0)
    by_default = explainer(images, method)
    named = explainer(images, method, by_default.target.tolist())
    (label,) = by_default
    torch.testing.assert_close(by_default[label].values, named[label].values)


def test_samples_in_parts_give_the_same_map(monkeypatch):
    model = build()
    images = pictures(model, 2)
    explainer = vitscope.Explainer(model)
    methods = [SmoothCDAM(samples=7), IntegratedCDAM(steps=8)]
    whole = explainer(images, methods)
    for module in ("smooth_cdam", "integrated_cdam"):
        monkeypatch.setattr(f"vitscope.methods.{module}.samples_at_once", lambda *_: 3)
    parts = explainer(images, methods)
    for label in whole:
        torch.testing.assert_close(whole[label].values, parts[label].values, rtol=1e-4, atol=1e-6)


def test_several_targets_at_once():
    model = build("distilled")
    images = pictures(model, 2)
    explainer = vitscope.Explainer(model)
    targets = [Class(3), Probability(1), Class((0, 6))]
    together = explainer.each(images, "smooth_cdam:samples=3,integrated_cdam:steps=4,daam,agcam,cdam", targets)
    for target, ex in zip(targets, together, strict=True):
        alone = explainer(images, "smooth_cdam:samples=3,integrated_cdam:steps=4,daam,agcam,cdam", target)
        for label in alone:
            torch.testing.assert_close(ex[label].values, alone[label].values, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("layout", ["vit", "distilled", "clip", "scale_norm", "fc_norm"])
@pytest.mark.parametrize("at", ["input", "norm"])
def test_of_many_targets_keys_and_values_are_made_and_of_few_they_are_not(layout, at, monkeypatch):
    """Two ways to the same numbers: every key and value, or the few vectors brought to the tokens."""
    model = build(layout, dtype=torch.float64)
    images = pictures(model, 2, dtype=torch.float64)
    explainer = vitscope.Explainer(model)
    label = f"smooth_cdam:samples=3,at={at}"
    targets = [*range(7), Contrast(2, 5), Probability(1)]  # 9 vectors of each of 3 heads, and tokens are 24 wide
    brought = []
    changes = Affine.changes
    monkeypatch.setattr(Affine, "changes", lambda *args: brought.append(1) or changes(*args))
    together = explainer.each(images, label, targets)
    assert not brought
    for target, ex in zip(targets, together, strict=True):
        torch.testing.assert_close(ex[label].values, explainer(images, label, target)[label].values)
    assert brought


def test_a_model_in_training_mode_is_run_in_evaluation_mode():
    model = build(proj_drop_rate=0.5, attn_drop_rate=0.5)
    images = pictures(model, 2)
    explainer = vitscope.Explainer(model)
    wanted = explainer(images, "smooth_cdam:samples=2")
    model.train()
    found = explainer(images, "smooth_cdam:samples=2")
    assert model.training
    torch.testing.assert_close(found["smooth_cdam:samples=2"].values, wanted["smooth_cdam:samples=2"].values)


def test_wrong_options_are_one_clear_line():
    for words in ("smooth_cdam:samples=0", "smooth_cdam:noise=-1", "integrated_cdam:steps=1"):
        with pytest.raises(MethodError, match="at least"):
            vitscope.methods.as_methods(words)
