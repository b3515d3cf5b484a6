"""Every method from passes in half precision: the same maps as far as these determine them, in float32."""

from __future__ import annotations

import pytest
import torch

import vitscope
from tests.conditioning import clusters, shaky
from tests.conftest import LAYOUTS, POOLED, build, pictures
from tests.methods.test_contract import LABELS, target_of
from vitscope.methods import as_method
from vitscope.trace import Needs, record

EXACT = ("cplrp", "attnlrp", "attnlrp:gamma=0", "reslrp", "reslrp:gamma=0", "libra_fullgrad")
"""Methods of a backward pass by other rules, which runs as the weights are."""


def alike(one: torch.Tensor, other: torch.Tensor) -> float:
    """Pearson's correlation, the lowest of the pictures'."""
    pairs = zip(one.flatten(1), other.flatten(1), strict=True)
    return min(float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("label", LABELS)
def test_the_same_picture_in_float32(label, precision):
    model = build()
    images = pictures(model, 2)
    explainer = vitscope.Explainer(model)
    method = as_method(label)
    if method.facts.divides and not method.needs.backward:
        refusing = vitscope.Explainer(model, running=precision)
        with pytest.raises(vitscope.MethodError, match=f"sums that may nearly cancel, and {precision} gives another"):
            refusing(images, label, 2)
        return
    target = target_of(label, explainer, images)
    target = explainer(images, "attention").target.tolist() if target is None else target
    wanted, found = (
        vitscope.Explainer(model, running=one)(images, label, target, strict=False) for one in ("float32", precision)
    )
    if label in wanted.failures:  # class-agnostic, and asked for what half precision may not predict
        pytest.skip(wanted.failures[label])
    wanted, found = wanted[label], found[label]
    assert found.values.dtype == torch.float32
    assert found.values.shape == wanted.values.shape
    assert found.values.isfinite().all()
    assert not torch.equal(found.values, wanted.values) or label in EXACT
    assert shaky(label) or clusters(label) or alike(found.values, wanted.values) > 0.9
    if wanted.blocks is not None:
        assert found.blocks.dtype == torch.float32
        assert found.blocks.shape == wanted.blocks.shape


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
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
