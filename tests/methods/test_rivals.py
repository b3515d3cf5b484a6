"""The methods that read attention, values and gradients, against whole attention matrices and autograd in float64."""

from __future__ import annotations

import secrets

import pytest
import torch
from timm.models.cait import Cait

import vitscope
from tests import reference
from tests.conftest import LAYOUTS, POOLED, build, perturbed, pictures
from vitscope.targets import Class, Concept, Contrast, Predicted, Probability

CLASSES = [4, 0, 6]
LABELS = [
    "legrad",
    "grad_sam",
    "gmar",
    "gmar:norm=l2",
    "grad_eclip",
    "btt:steps=3",
    "bth:steps=3",
    "tokentm",
    "tokentm:directions=mean",
]


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def of_classes(logits: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, torch.tensor(CLASSES)[:, None])[:, 0]


@pytest.fixture(params=sorted(LAYOUTS | POOLED))
def model(request):
    return build(request.param, dtype=torch.float64)


def fresh(model, count: int = 3) -> torch.Tensor:
    """Other pictures at every run."""
    seed = secrets.randbelow(2**31)
    return pictures(model, count, seed=seed, dtype=torch.float64)


def agrees(found: torch.Tensor, wanted: torch.Tensor, prefix: int) -> bool:
    """Given in float32; where nothing is left after a ReLU, nothing is to be found either."""
    wanted = wanted[..., prefix:].detach()
    if not wanted.any():
        return not found.any()
    return relative(found.flatten(-2), wanted) < 1e-6


def explain_all(explainer, images, labels, target):
    """Picture by picture, so that a map with nothing left after its ReLU does not hide the others."""
    found = {label: [] for label in labels}
    for index in range(len(images)):
        one = explainer(images[index : index + 1], labels, target[index], strict=False)
        for label in labels:
            if label in one:
                found[label].append(one[label])
            else:
                assert "after its ReLUs" in one.failures[label]
                found[label].append(None)
    return found


def test_against_the_definitions_in_float64(model):
    images = fresh(model)
    explainer, prefix = vitscope.Explainer(model), model.num_prefix_tokens
    found = explain_all(explainer, images, LABELS, CLASSES)
    wanted = {
        "legrad": reference.legrad(model, images, of_classes),
        "grad_sam": reference.grad_sam(model, images, of_classes),
        "gmar": reference.gmar(model, images, of_classes, 1),
        "gmar:norm=l2": reference.gmar(model, images, of_classes, 2),
        "grad_eclip": reference.grad_eclip(model, images, of_classes),
        "btt:steps=3": reference.beyond_intuition(model, images, of_classes, 3, tokens=True),
        "bth:steps=3": reference.beyond_intuition(model, images, of_classes, 3, tokens=False),
        "tokentm": reference.tokentm(model, images, of_classes),
        "tokentm:directions=mean": reference.tokentm(model, images, of_classes, mean=True),
    }
    given = 0
    for label, maps in found.items():
        for index, attribution in enumerate(maps):
            expected = wanted[label][index]
            if attribution is None:
                assert not expected[..., prefix:].any(), label
                continue
            given += 1
            by_block = attribution.values if attribution.blocks is None else attribution.blocks
            assert agrees(by_block[0], expected, prefix), label
    assert given > len(LABELS) * len(images) / 2


@pytest.mark.integration
def test_a_batch_is_its_pictures_one_by_one_and_several_targets_each_ones_own(model):
    images = fresh(model)
    explainer = vitscope.Explainer(model)
    targets = [Class(tuple(CLASSES)), Contrast(2, 5), Probability(3)]
    together = explainer.each(images, LABELS, targets, strict=False)
    for target, explanation in zip(targets, together, strict=True):
        alone = explainer(images, LABELS, target, strict=False)
        assert alone.attributions.keys() == explanation.attributions.keys()
        for label, attribution in alone.attributions.items():
            assert relative(explanation[label].values, attribution.values) < 1e-6, label
    single = explain_all(explainer, images, LABELS, CLASSES)
    for label, attribution in together[0].attributions.items():
        for index, one in enumerate(single[label]):
            assert relative(attribution.values[index], one.values[0]) < 1e-6, label


@pytest.mark.parametrize("layout", ["vit", "mean", "attention_pool"])
def test_chunks_of_rows(layout, monkeypatch):
    model = build(layout, dtype=torch.float64)
    images, explainer = fresh(model, 2), vitscope.Explainer(model)
    whole = explainer(images, LABELS, 2, strict=False)
    chunks = vitscope.trace.EveryRow.chunks
    monkeypatch.setattr(vitscope.trace.EveryRow, "chunks", lambda self, limit=0: chunks(self, 3 * 2 * 3 * 17))
    monkeypatch.setattr("vitscope.methods.beyond_intuition.LIMIT", 3 * 2 * 3 * 17)
    again = explainer(images, LABELS, 2, strict=False)
    assert whole.attributions
    for label, attribution in whole.attributions.items():
        assert relative(again[label].values, attribution.values) < 1e-6, label


@pytest.mark.parametrize("layout", ["vit", "distilled", "mean", "attention_pool"])
def test_a_target_that_is_not_linear_is_taken_again_at_every_blocks_own_output_and_every_scaled_picture(layout):
    model = build(layout, dtype=torch.float64)
    images, explainer, prefix = fresh(model, 2), vitscope.Explainer(model), model.num_prefix_tokens
    ex = explainer(images, "legrad,btt:steps=3", Probability(3), strict=False)

    def probability(logits):
        return logits.softmax(1)[:, 3]

    wanted = reference.legrad(model, images, probability)
    assert agrees(ex["legrad"].blocks, wanted, prefix)
    if "btt:steps=3" in ex:
        feedback = reference.beyond_intuition(model, images, probability, 3, tokens=True)
        assert agrees(ex["btt:steps=3"].values, feedback, prefix)


def test_the_scaled_pictures_are_asked_for_the_class_of_the_unaltered_one():
    model = build(dtype=torch.float64)
    explainer = vitscope.Explainer(model)
    images = next(
        drawn
        for drawn in (pictures(model, 1, seed=seed, dtype=torch.float64) for seed in range(200))
        if int(model(drawn).argmax()) != int(model(drawn / 4).argmax())
    )
    predicted = int(model(images).argmax())
    assert torch.equal(
        explainer(images, "btt:steps=4", Predicted())["btt:steps=4"].values,
        explainer(images, "btt:steps=4", predicted)["btt:steps=4"].values,
    )


def test_a_concept_explains_a_model_without_a_head():
    model = build(dtype=torch.float64)
    model.reset_classifier(0)
    explainer, images = vitscope.Explainer(model), fresh(model, 2)
    concept = torch.randn(4, 24, dtype=torch.float64)
    found = explainer(images, "legrad", Concept(concept))["legrad"].blocks
    vector = concept.float().mean(0).double()
    wanted = reference.legrad(model, images, lambda features: features @ vector)
    assert agrees(found, wanted, 1)


@pytest.mark.parametrize("tokens", [True, False])
def test_the_first_block_of_the_product(tokens):
    model = build(dtype=torch.float64)
    images, label = fresh(model, 2), f"{'btt' if tokens else 'bth'}:steps=2,first=2"
    found = vitscope.Explainer(model)(images, label, 1)[label].values
    wanted = reference.beyond_intuition(model, images, lambda y: y[:, 1], 2, tokens, first=2)
    assert agrees(found, wanted, 1)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("btt:steps=0", "at least 1 step"),
        ("bth:first=-1", "a first block from 0 on"),
        ("btt:first=3,steps=1", "the model has blocks 0 to 2"),
    ],
)
def test_wrong_options_are_answered(label, says):
    with pytest.raises(vitscope.MethodError, match=says):
        vitscope.Explainer(build())(pictures(build()), label, 1)


def test_all_rows_of_the_last_block_leave_the_backward_pass_of_the_others_as_it_is():
    model = build(dtype=torch.float64)
    images, explainer = fresh(model, 2), vitscope.Explainer(model)
    together = explainer(images, "daam,grad_eclip", 1, strict=False)["daam"].blocks
    assert (
        relative(
            together, reference.daam_blocks(model, images, torch.tensor([1, 1]))[..., 1:].unflatten(-1, (4, 4)).detach()
        )
        < 1e-6
    )


def test_a_step_is_one_pass_and_the_last_is_the_pass_itself():
    model = build()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    explainer = vitscope.Explainer(model)
    calls.clear()
    explainer(pictures(model), ["btt:steps=4", "bth:steps=4"], 1, strict=False)
    assert len(calls) == 4
    assert explainer(pictures(model), "btt:steps=1", 1, strict=False)
    assert len(calls) == 5


def test_products_where_patches_ask_nothing_of_each_other():
    """In CaiT's class-attention blocks the patches stay as they are: what the later block draws from them is theirs."""
    with torch.random.fork_rng():
        torch.manual_seed(secrets.randbelow(2**31))
        model = Cait(img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=3, num_classes=7)
    model = perturbed(model).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    seen = []
    hooks = [
        block.attn.register_forward_pre_hook(lambda site, x: seen.append((site, x[0])))
        for block in model.blocks_token_only
    ]
    model(images)
    [hook.remove() for hook in hooks]
    rows = []
    for site, tokens in seen:
        query, key = (
            layer(part).unflatten(-1, (site.num_heads, -1)).transpose(1, 2)
            for layer, part in ((site.q, tokens[:, :1]), (site.k, tokens))
        )
        rows.append((query @ key.mT * site.scale).softmax(-1).mean(1)[:, 0])
    product = torch.eye(17, dtype=torch.float64)
    for row in rows:
        matrix = torch.eye(17, dtype=torch.float64).repeat(2, 1, 1)
        matrix[:, 0] = (row + matrix[:, 0]) / 2
        product = matrix @ product
    found = vitscope.Explainer(model)(images, "rollout")["rollout"].values
    assert relative(found.flatten(1), product[:, 0, 1:].detach()) < 1e-6
