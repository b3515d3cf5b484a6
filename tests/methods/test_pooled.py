"""Models that pool their tokens have no class row: every row of the attention counts. Against autograd in float64."""

from __future__ import annotations

import pytest
import torch

import vitscope
from tests import reference
from tests.conftest import POOLED, build, pictures

LABELS = [
    "daam",
    "daam:path=skip",
    "daam:path=feedforward",
    "daam:rows=all",
    "agcam",
    "agcam:path=full",
    "agcam:scores=layer_norm,heads=gradient",
    "cdam",
    "smooth_cdam:samples=3",
    "smooth_cdam:samples=3,at=norm",
    "integrated_cdam:steps=4",
    "integrated_cdam:steps=4,at=norm",
    "chefer",
    "gradient_rollout",
    "attention",
]
CLASSES = [4, 0, 6]


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.fixture(params=sorted(POOLED))
def model(request):
    return build(request.param, dtype=torch.float64)


def test_against_the_definitions_in_float64(model):
    images, classes = pictures(model, 3, dtype=torch.float64), torch.tensor(CLASSES)
    explainer = vitscope.Explainer(model)
    ex = explainer(images, "daam,agcam,agcam:path=full,cdam", CLASSES)
    prefix = model.num_prefix_tokens
    _, run = reference.forward(model, images)
    received = run.attention[-1][:, :, prefix if run.attention[-1].shape[2] > 1 else 0 :].mean((1, 2))
    for found, wanted in (
        (ex["daam"].blocks, reference.daam_blocks_of_every_row(model, images, classes)),
        (ex["agcam"].values, reference.agcam_of_every_row(model, images, classes)),
        (ex["agcam:path=full"].values, reference.agcam_of_every_row(model, images, classes, "full")),
        (ex["cdam"].values, reference.cdam(model, images, classes)),
        (explainer(images, "attention")["attention"].values, received),
    ):
        assert relative(found.flatten(-2), wanted[..., prefix:].detach()) < 1e-6  # given in float32


def test_daams_other_paths_in_float64(model):
    """Along the skip path every row has a gradient of its own; an attention pool lets none pass."""
    images, classes = pictures(model, 3, dtype=torch.float64), torch.tensor(CLASSES)
    found = vitscope.Explainer(model)(images, "daam:path=skip", CLASSES)["daam:path=skip"].blocks
    logits, run = reference.forward(model, images, detach_inputs=True)
    gradients = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), run.outputs, allow_unused=True)
    for block, gradient in enumerate(gradients):
        if gradient is None:
            assert not found[:, block].any()
            continue
        spread = run.attention[block].mT @ gradient.relu()
        wanted = (spread * run.values[block]).sum((1, 3)).relu()[:, model.num_prefix_tokens :]
        assert relative(found[:, block].flatten(1), wanted.detach()) < 1e-6


@pytest.mark.parametrize("normed", [False, True])
def test_products_of_attention_in_float64(model, normed):
    """They begin with the patch rows' mean; an attention pool's own row has no residual."""
    images, classes = pictures(model, 3, dtype=torch.float64), torch.tensor(CLASSES)
    explainer, prefix = vitscope.Explainer(model), model.num_prefix_tokens
    label = "gradient_rollout" if normed else "chefer"
    logits, run = reference.forward(model, images)
    gradients = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), run.attention)
    for method, mixed in (
        (label, [(a * g).relu().mean(1) for a, g in zip(run.attention, gradients, strict=True)]),
        ("rollout", [a.mean(1) for a in run.attention]),
    ):
        row = torch.zeros(3, 1, mixed[0].shape[-1], dtype=torch.float64)
        if model.attn_pool is None:
            row[..., prefix:] = 1 / (row.shape[-1] - prefix)
        else:
            pool = mixed.pop()
            row = pool / pool.sum(-1, keepdim=True) if normed or method == "rollout" else pool
        stayed = row if model.attn_pool is None else torch.zeros_like(row)
        for matrix in reversed(mixed):
            whole = matrix + torch.eye(matrix.shape[-1], dtype=torch.float64)
            total = whole.sum(-1) if normed or method == "rollout" else torch.ones_like(whole[..., 0])
            row, stayed = row @ (whole / total[..., None]), stayed / total[:, None]
        row = row - stayed  # what the identities leave in its place
        found = explainer(images, method, None if method == "rollout" else CLASSES)[method].values
        assert relative(found.flatten(1), row[:, 0, prefix:].detach()) < 1e-6


@pytest.mark.parametrize("label", ["chefer", "gradient_rollout", "chefer_lrp", "tokentm"])
@pytest.mark.parametrize("layout", ["mean", "mean_no_class_token", "max"])
def test_products_of_matrices_that_are_small_beside_the_identity_in_float32(layout, label):
    """A small gradient: the map must not be the difference of two products that are nearly the same."""
    maps = []
    for dtype in (torch.float32, torch.float64):
        model = build(layout, dtype=dtype)
        with torch.no_grad():
            model.head.weight.mul_(1e-5)
        maps.append(vitscope.Explainer(model)(pictures(model, 3, dtype=dtype), label, CLASSES)[label].values)
    assert relative(*maps) < 1e-2


def test_several_targets_and_chunks_of_rows(monkeypatch):
    model = build("mean")
    explainer, images = vitscope.Explainer(model), pictures(model, 2)
    whole = explainer.each(images, LABELS[:-1], [1, vitscope.targets.Contrast(2, 5)])
    chunks = vitscope.trace.EveryRow.scores
    monkeypatch.setattr(vitscope.trace.EveryRow, "scores", lambda self, limit=0: chunks(self, 3 * 2 * 3 * 17))
    for target, together in zip((1, vitscope.targets.Contrast(2, 5)), whole, strict=True):
        for label in LABELS[:-1]:
            assert relative(together[label].values, explainer(images, label, target)[label].values) < 1e-4


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("layout", sorted(POOLED))
def test_batch_equals_loop_fused_or_written_out(label, layout):
    explainer, images = vitscope.Explainer(build(layout)), pictures(build(layout), 3)
    agnostic = label == "attention"
    together = explainer(images, label, None if agnostic else CLASSES)[label]
    written_out = vitscope.Explainer(build(layout, fused=False))(images, label, None if agnostic else CLASSES)[label]
    assert torch.isfinite(together.values).all()
    assert relative(written_out.values, together.values) < 1e-4
    for index in (0, 2):
        alone = explainer(images[index], label, None if agnostic else CLASSES[index])[label]
        assert relative(alone.values[0], together.values[index]) < 1e-4


@pytest.mark.parametrize("at", ["input", "norm"])
def test_integrated_cdam_of_a_mean_pool_against_a_plain_run(at):
    model = build("mean", dtype=torch.float64)
    images = pictures(model, 2, dtype=torch.float64)
    label = f"integrated_cdam:steps=4,at={at}"
    found = vitscope.Explainer(model)(images, label, 2)[label].values
    inputs = reference.last_input(model, images)
    points = (1, 2, 3) if at == "input" else (0, 1, 2, 3, 4)
    tokens = model.blocks[-1].norm1(inputs)
    maps = [
        reference.cdam_of_last_block(
            model, *((inputs * k / 4, pick) if at == "input" else (inputs, pick, tokens * k / 4))
        ).detach()
        for k in points
    ]
    assert relative(found.flatten(1), torch.stack(maps).mean(0)[:, 1:]) < 1e-6


def pick(logits):
    return logits[:, 2]


def test_evidence_of_an_attention_pool_is_cdam_class_by_class():
    model = build("attention_pool", dtype=torch.float64)
    explainer, images = vitscope.Explainer(model), pictures(model, 2, dtype=torch.float64)
    evidence = explainer.evidence(images)
    for label in range(7):
        assert relative(evidence[label], explainer(images, "cdam", label)["cdam"].values) < 1e-6


def test_evidence_of_a_mean_pool_is_refused_with_the_way_out():
    with pytest.raises(vitscope.MethodError, match="pools all tokens; use cdam"):
        vitscope.Explainer(build("mean")).evidence(pictures(build("mean")))
