"""What the head reads, the class token, a mean of rows or both, is where methods begin and what they average over."""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.util

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vitscope
from tests import zoo
from tests.conftest import perturbed
from vitscope import Preprocessing
from vitscope.models import Anatomy, anatomy_of
from vitscope.models.anatomy import Classifier

PREPROCESSING = Preprocessing.of_fields(
    size=56, interpolation="bicubic", crop_pct=1.0, crop_mode="center", mean=(0.5,) * 3, std=(0.5,) * 3
)
AGNOSTIC = ("attention", "rollout")
BY_TARGET = [
    "chefer",
    "chefer:path=libra",
    "gradient_rollout",
    "chefer_lrp",
    "partial_lrp",
    "tokentm",
    "gmar",
    "attcat",
    "btt:steps=3",
    "bth:steps=3",
    "legrad",
    "grad_sam",
    "cdam",
]


@functools.cache
def dinov2(registers: int = 0) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    options = {"num_register_tokens": registers} if registers else {}
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=56, num_labels=5, **options
    )
    with torch.random.fork_rng():
        torch.manual_seed(registers)
        model = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    return perturbed(model, torch.Generator().manual_seed(41), by=0.15)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(87))


class OneHalf(nn.Module):
    """The same encoder, of which the head reads the class token, or the mean of the patches, alone."""

    def __init__(self, model: nn.Module, part: str) -> None:
        super().__init__()
        self.encoder = model.base_model
        self.part, self.prefix = part, 1 + getattr(model.config, "num_register_tokens", 0)
        weight, bias = model.classifier.weight.detach(), model.classifier.bias.detach()
        self.head = nn.Linear(32, 5)
        self.head.weight.data = (weight[:, :32] if part == "class" else weight[:, 32:]).clone()
        self.head.bias.data = bias.clone()

    def forward(self, x):
        tokens = self.encoder(x).last_hidden_state
        return self.head(tokens[:, 0] if self.part == "class" else tokens[:, self.prefix :].mean(dim=1))


def of_one_half(model: nn.Module, part: str) -> Anatomy:
    alone = OneHalf(model, part).eval()
    anatomy, rows = anatomy_of(model), 1 if part == "class" else None
    norm = anatomy.final_site

    def features(tokens):
        return norm(tokens)[:, 0] if part == "class" else norm(tokens)[:, alone.prefix :].mean(dim=1)

    return dataclasses.replace(
        anatomy,
        model=alone,
        call=None,
        blocks=tuple(dataclasses.replace(block, rows=rows) for block in anatomy.blocks),
        features=features,
        classifier=Classifier((alone.head,)),
        reads=("patches",),
    )


@pytest.mark.parametrize("registers", [pytest.param(0, marks=pytest.mark.integration), 3])
@pytest.mark.parametrize("part", ["class", "mean"])
def test_a_head_that_ignores_one_part_of_its_features_is_the_head_of_the_other(part, registers):
    """The same function of the picture has the same map, up to a factor; in float64, as LRP amplifies rounding."""
    model = copy.deepcopy(dinov2(registers)).double()
    model.classifier.weight.data[:, slice(32, None) if part == "class" else slice(0, 32)] = 0
    images = drawn(2, 3, 56, 56).double()
    both = vitscope.Explainer(model, preprocessing=PREPROCESSING)
    one = vitscope.Explainer(of_one_half(model, part), preprocessing=PREPROCESSING)
    torch.testing.assert_close(both(images, "cdam").logits, one(images, "cdam").logits)
    for label in BY_TARGET:
        lrp = label.endswith("lrp")  # whose relevance of a contrast is 0 in all, and what is left of it arbitrary
        targets = [1, 4 if lrp else vitscope.targets.Contrast(0, 3)]
        for target, together in zip(targets, both.each(images, label, targets), strict=True):
            found, wanted = (ex[label].values.flatten(1) for ex in (together, one(images, label, target)))
            assert (torch.cosine_similarity(found, wanted, dim=1) > 1 - 1e-6).all(), (label, target)


def test_of_both_parts_the_class_agnostic_ones_take_half_each():
    model = dinov2()
    images = drawn(2, 3, 56, 56)
    both = vitscope.Explainer(model, preprocessing=PREPROCESSING)
    halves = [vitscope.Explainer(of_one_half(model, part), preprocessing=PREPROCESSING) for part in ("class", "mean")]
    for label in AGNOSTIC:
        found = both(images, label)[label].values
        wanted = sum(half(images, label)[label].values for half in halves) / 2
        assert torch.allclose(found, wanted, atol=1e-6), label


def test_the_shares_of_a_linear_head_are_gradient_times_features():
    model, images = dinov2(), drawn(2, 3, 56, 56)
    anatomy = vitscope.Explainer(model, preprocessing=PREPROCESSING).anatomy
    targets = [vitscope.targets.Class(2), vitscope.targets.Contrast(4, 1)]
    trace = vitscope.trace.record(anatomy, images, vitscope.trace.Needs(), targets)
    weight = model.classifier.weight.detach()
    for slot, seed in enumerate((weight[2], weight[4] - weight[1])):
        each = (trace.features * seed).abs().unflatten(1, (2, 32)).sum(dim=-1)
        wanted = each / each.sum(dim=-1, keepdim=True)
        assert torch.allclose(trace.shares[:, slot], wanted, atol=1e-5)
        counts = trace.counts()[:, slot]
        assert torch.allclose(counts[:, 0], wanted[:, 0], atol=1e-5)
        assert torch.allclose(counts[:, 1:], (wanted[:, 1:] / 16).expand(-1, 16), atol=1e-6)


def test_a_head_that_is_no_linear_layer_has_shares_too():
    model, images = dinov2(), drawn(2, 3, 56, 56)
    plain = model.classifier
    model.classifier = nn.Sequential(nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 5))
    try:
        model.classifier[0].weight.data[:, 32:] = 0
        anatomy = vitscope.Explainer(model, preprocessing=PREPROCESSING).anatomy
        aims = [vitscope.targets.Class(2), vitscope.targets.Class(0)]
        trace = vitscope.trace.record(anatomy, images, vitscope.trace.Needs(), aims)
        assert anatomy.classifier is None
        assert torch.equal(trace.shares, torch.tensor([1.0, 0.0]).expand(2, 2, 2))
    finally:
        model.classifier = plain


def test_a_mean_with_the_prefix_tokens_begins_with_all_of_them():
    """The class token is one of the rows that the head reads, so its attention counts like any other row's."""
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
    model = VisionTransformer(**shape, global_pool="avg", pool_include_prefix=True, fc_norm=False, reg_tokens=2).eval()
    perturbed(model, torch.Generator().manual_seed(43), by=0.1)
    images, explainer = drawn(2, 3, 32, 32), vitscope.Explainer(model)
    seen: list[torch.Tensor] = []
    attend = nn.functional.scaled_dot_product_attention

    def see(query, key, value, **_):
        seen.append((query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1).detach())
        return attend(query, key, value)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(nn.functional, "scaled_dot_product_attention", see)
        model(images)
    assert len(seen) == 2
    found = explainer(images, "attention")["attention"].values
    assert torch.allclose(found.flatten(1), seen[-1].mean(dim=(1, 2))[:, 3:], atol=1e-6)
    row = torch.full((2, 1, 19), 1 / 19)
    stayed = row
    for matrix in reversed(seen):
        row, stayed = (row @ matrix.mean(dim=1) + row) / 2, stayed / 2
    found = explainer(images, "rollout")["rollout"].values
    assert torch.allclose(found.flatten(1), (row - stayed)[:, 0, 3:], atol=1e-6)


def test_every_adapter_names_the_rows_that_its_head_reads():
    """A row has a gradient where the head reads it, and there alone."""
    parts = []
    for entry in zoo.ZOO:
        if entry.extra and not importlib.util.find_spec(entry.extra):
            continue
        model = zoo.built(entry)
        anatomy = model if isinstance(model, Anatomy) else anatomy_of(model)
        if not anatomy.blocks or anatomy.rows_read is not None:
            continue
        rows, cols = anatomy.grid(anatomy.input_size)
        tokens = len(anatomy.prefix) + rows * cols
        x = drawn(1, tokens, len(next(anatomy.blocks[0].norm.parameters()))).requires_grad_()
        features = anatomy.features(x)
        (gradient,) = torch.autograd.grad((features * drawn(*features.shape)).sum(), x)
        read = torch.zeros(tokens, dtype=torch.bool)
        for part in anatomy.rows_of_reads:
            read[part] = True
        assert torch.equal(gradient[0].any(dim=-1), read), entry.name
        parts.append(anatomy.reads)
    assert len(parts) > 5
