"""Passes in half precision: the same maps in every layout, in float32. (All methods: test_contract.)"""

from __future__ import annotations

import pytest
import torch

import vitscope
from tests.conftest import LAYOUTS, POOLED, build, pictures
from tests.methods.test_contract import alike
from vitscope.trace import Needs, record


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.integration)])
@pytest.mark.parametrize("kind", sorted(LAYOUTS | POOLED))
def test_in_every_layout(kind, precision):
    model = build(kind)
    images = pictures(model, 2)
    explainers = [vitscope.Explainer(model, running=one) for one in ("float32", precision)]
    wanted, found = (
        one(images, "daam,agcam,cdam,smooth_cdam:samples=2,legrad,attention", 2, strict=False) for one in explainers
    )
    assert found.failures.keys() == wanted.failures.keys()
    for label in wanted:
        assert alike(found[label].values, wanted[label].values) > 0.98
    if model.global_pool == "token":
        both = [one.evidence(images)[3].flatten(1) for one in explainers]
        assert alike(*both) > 0.98


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_all_that_is_recorded_is_in_float32(precision):
    explainer = vitscope.Explainer(build(), running=precision)
    needs = Needs(
        **dict.fromkeys(("attention", "values", "sensitivity", "skip_gradient", "full_gradient"), 2), rerun=True
    )
    trace = record(explainer.anatomy, pictures(explainer.anatomy.model), needs, [explainer.target(1)])
    seen = [trace.logits, trace.features, trace.again().input]
    seen += [value for block in trace.blocks for value in vars(block).values() if isinstance(value, torch.Tensor)]
    assert {tensor.dtype for tensor in seen} == {torch.float32}


@pytest.mark.integration
@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.99), ("fp16", 0.999)])
def test_the_three_papers_on_the_real_network(shared, golden, precision, bound):
    """Against the official implementations' figures, which are float32's."""
    weights = shared / "weights" / "vit_tiny_patch16_224.safetensors"
    explainer = vitscope.Explainer("timm/vit_tiny_patch16_224", weights, running=precision)
    images, classes = torch.from_numpy(golden["images"]), golden["classes"][:, 0].tolist()
    ex = explainer(images, "daam,agcam,cdam", classes)
    for label in ("agcam", "cdam"):
        assert alike(ex[label].values, torch.from_numpy(golden[label][:, 0])) > bound
    for image in range(3):
        assert alike(ex["daam"].blocks[image], torch.from_numpy(golden["daam_blocks"][image, 0])) > bound
