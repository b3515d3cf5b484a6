"""The model run on altered pictures: held targets, hidden tokens, chunks, memory."""

from __future__ import annotations

import dataclasses
import secrets

import pytest
import timm
import torch
import torch.nn.functional as F
from torchvision.models import VisionTransformer as TorchvisionViT

import vitscope
from tests.conftest import LAYOUTS, POOLED, build, perturbed, pictures
from tests.zoo import ZOO, built
from vitscope.models import anatomy_of
from vitscope.targets import Class, ClassNames, Concept, Contrast, Custom, Neighbours, Output, Predicted, Probability
from vitscope.trace import Needs, hidden, record
from vitscope.trace.chunks import Chunks, out_of_memory

NEEDS = Needs(pictures=True, hiding=True)


def runs(model, images, aims=None):
    anatomy = model if isinstance(model, vitscope.models.Anatomy) else anatomy_of(model)
    return record(anatomy, images, NEEDS, aims or [Predicted()]).pictures()


def without(model, image, kept):
    """The output for one picture with the other patch tokens really removed, behind timm's positional encoding."""
    prefix = model.num_prefix_tokens
    rows = [*range(prefix), *(prefix + index for index in kept)]
    handle = model.patch_drop.register_forward_hook(lambda _, __, tokens: tokens[:, rows])
    try:
        with torch.no_grad():
            return model(image[None])[0]
    finally:
        handle.remove()


def random_masks(count, patches, seed=None):
    generator = torch.Generator().manual_seed(secrets.randbits(31) if seed is None else seed)
    masks = torch.rand(count, patches, generator=generator) < 0.6
    masks[:, 0] = True
    return masks


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", sorted(LAYOUTS | POOLED))
def test_hidden_tokens_are_removed_tokens(kind, fused):
    model = build(kind, dtype=torch.float64, fused=fused)
    images = pictures(model, 2, dtype=torch.float64)
    aims = [Class(index) for index in range(7)]
    found = runs(model, images, aims)
    keep = random_masks(6, found.grid[0] * found.grid[1])
    image = torch.tensor([0, 1, 1, 0, 1, 0])
    scores = found.scores(image, keep=keep)
    for row, mask, which in zip(scores, keep, image.tolist(), strict=True):
        wanted = without(model, images[which], mask.nonzero()[:, 0].tolist())
        torch.testing.assert_close(row, wanted, rtol=1e-9, atol=1e-9)
    whole = found.scores(torch.tensor([0, 1]), keep=torch.ones(2, keep.shape[1], dtype=torch.bool))
    torch.testing.assert_close(whole, found.unaltered(), rtol=1e-9, atol=1e-9)


def test_hidden_tokens_are_removed_tokens_in_torchs_own_attention():
    torch.manual_seed(3)
    model = TorchvisionViT(
        image_size=32, patch_size=8, num_layers=2, num_heads=3, hidden_dim=24, mlp_dim=48, num_classes=5
    )
    model = perturbed(model).double()
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    keep = random_masks(3, 16)
    scores = runs(model, images, [Class(index) for index in range(5)]).scores(
        torch.zeros(3, dtype=torch.long), keep=keep
    )
    for row, mask in zip(scores, keep, strict=True):
        rows = [0, *(1 + mask.nonzero()[:, 0]).tolist()]
        handle = model.encoder.dropout.register_forward_hook(lambda _, __, tokens, rows=rows: tokens[:, rows])
        with torch.no_grad():
            torch.testing.assert_close(row, model(images)[0], rtol=1e-9, atol=1e-9)
        handle.remove()


OTHERS = [
    "timm/beit_base_patch16_224",
    "timm/eva02_tiny_patch14_224",
    "timm/vit_small_patch16_dinov3",
    "timm/vit_base_patch16_siglip_224",
    "timm/vit_pe_core_tiny_patch16_384",
    "hub/dino_vits8 with a head",
    "transformers ViTForImageClassification",
    "transformers BeitForImageClassification",
    "transformers SiglipModel",
    "open_clip VisionTransformer",
    "backbone and a head of your own",
    "timm Blocks and the mean of their tokens",
]


@pytest.mark.parametrize(
    "entry", [entry for entry in ZOO if entry.name in OTHERS], ids=lambda e: f"{e.family}-{e.name}"
)
def test_what_is_behind_a_hidden_token_does_not_matter(entry):
    """Whatever the pixels of hidden patches are, the score is the same; without hiding it is not."""
    if entry.extra:
        pytest.importorskip(entry.extra)
    made = built(entry)
    anatomy = vitscope.Explainer(made).anatomy
    images = torch.randn(1, 3, *anatomy.input_size, generator=torch.Generator().manual_seed(5))
    found = runs(anatomy, images, [Custom(lambda output: output[:, 1])])
    rows, cols = found.grid
    keep = random_masks(4, rows * cols)
    visible = keep.view(4, 1, rows, cols).repeat_interleave(anatomy.patch[0], 2).repeat_interleave(anatomy.patch[1], 3)
    other = torch.where(visible, images, torch.randn(4, *images.shape[1:]))
    image = torch.zeros(4, dtype=torch.long)
    same, altered = (
        found.scores(image, lambda start, stop, x=x: x[start:stop], keep=keep)
        for x in (images.repeat(4, 1, 1, 1), other)
    )
    torch.testing.assert_close(same, altered, rtol=1e-4, atol=1e-5)
    plain = found.scores(image, lambda start, stop: other[start:stop])
    assert not torch.allclose(plain, altered, rtol=1e-2)
    torch.testing.assert_close(found.scores(image[:1], keep=torch.ones_like(keep[:1])), found.unaltered())


@pytest.mark.parametrize("name", ["timm/cait_xxs24_224", "timm/xcit_nano_12_p16_224", "timm/convit_tiny"])
def test_where_tokens_meet_elsewhere_it_is_refused_by_name(name):
    (entry,) = (entry for entry in ZOO if entry.name == name)
    explainer = vitscope.Explainer(built(entry))
    images = torch.randn(1, 3, *explainer.anatomy.input_size)
    with pytest.raises(vitscope.MethodError, match=r"leaves patch tokens out.*; use .*rise"):
        explainer(images, "token_ablation")
    with (
        pytest.raises(vitscope.ModelError, match="tokens cannot be left out of"),
        hidden(explainer.anatomy, torch.ones(1, 4, dtype=torch.bool)),
    ):
        pass


def test_no_token_left_and_wrong_counts_are_named():
    model = build("mean_no_class_token")
    images = pictures(model, 1)
    found = runs(model, images)
    with pytest.raises(vitscope.ModelError, match=r"no token of .* is left"):
        found.scores(torch.tensor([0]), keep=torch.zeros(1, 24, dtype=torch.bool))
    with pytest.raises(vitscope.ModelError, match="its adapter does not fit"):
        found.scores(torch.tensor([0]), keep=torch.ones(1, 23, dtype=torch.bool))


def test_every_target_is_that_of_the_unaltered_picture():
    """Against each target's own definition, written out, on copies in any order and number."""
    model = build(dtype=torch.float64)
    images = pictures(model, 3, dtype=torch.float64)
    explainer = vitscope.Explainer(model)
    features, labels = torch.randn(40, 24), torch.randint(4, (40,))
    concept, bank = torch.randn(5, 24), Neighbours.among(features, labels, ClassNames(tuple("abcd")), k=7)
    odd = torch.tensor([2, 0, 5])
    aims = [
        Predicted(),
        Class((4, 1, 0)),
        Contrast(2, 6),
        Output(3),
        Probability((5, 5, 1)),
        Custom(lambda y: y.gather(1, odd[:, None])[:, 0] ** 2),
        Concept(concept),
        Concept(concept, similarity="cosine"),
        bank,
    ]
    image = torch.tensor([2, 0, 0, 1, 0, 2, 0])
    altered = torch.randn(7, 3, 32, 32, dtype=torch.float64)
    found = runs(model, images, aims)
    scores = found.scores(image, lambda start, stop: altered[start:stop])
    chances = found.scores(image, lambda start, stop: altered[start:stop], probability=True)
    with torch.no_grad():
        logits, before = model(altered), model(images)
    at, first = explainer.features(altered), explainer.features(images)
    predicted, mean = before.argmax(dim=1), concept.double().mean(0)
    rows = torch.arange(7)
    weights = bank.weights(first)
    wanted = [
        logits[rows, predicted[image]],
        logits[rows, torch.tensor([4, 1, 0])[image]],
        logits[:, 2] - logits[:, 6],
        logits[:, 3],
        logits.softmax(1)[rows, torch.tensor([5, 5, 1])[image]],
        logits[rows, odd[image]] ** 2,
        at @ mean,
        F.cosine_similarity(at, mean[None]),
        (weights[image] * at).sum(1),
    ]
    torch.testing.assert_close(scores, torch.stack(wanted, dim=1), rtol=1e-6, atol=1e-6)
    assert (logits.argmax(dim=1) != predicted[image]).any()
    assert found.has_probability().tolist() == [True, True, False, False, True, False, False, False, False]
    wanted[0] = logits.softmax(1)[rows, predicted[image]]
    wanted[1] = logits.softmax(1)[rows, torch.tensor([4, 1, 0])[image]]
    torch.testing.assert_close(chances, torch.stack(wanted, dim=1), rtol=1e-6, atol=1e-6)
    same = found.scores(torch.arange(3))
    torch.testing.assert_close(same, found.unaltered(), rtol=1e-6, atol=1e-6)
    likely = found.scores(torch.arange(3), probability=True)
    torch.testing.assert_close(likely, found.unaltered(probability=True), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layout", ["vit", "mean", "attention_pool", "distilled"])
def test_the_gradient_is_autograds(layout):
    model = build(layout, dtype=torch.float64)
    images = pictures(model, 2, dtype=torch.float64)
    concept = torch.randn(vitscope.Explainer(model).features(images).shape[1])
    aims = [Probability(3), Concept(concept)]
    found = dataclasses.replace(runs(model, images, aims), limit=3)
    image = torch.tensor([1, 0, 1, 1, 0])
    rows = torch.randn(5, *images.shape[1:], dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, dtype=torch.float64)
    (first,) = torch.autograd.grad((weight * found.differentiable(0)(rows, image)).sum(), rows)
    (wanted,) = torch.autograd.grad((weight * model(rows).softmax(1)[:, 3]).sum(), rows)
    torch.testing.assert_close(first, wanted)
    (second,) = torch.autograd.grad(found.differentiable(1)(rows, image).sum(), rows)
    kept = []
    handle = model.fc_norm.register_forward_hook(lambda _, __, output: kept.append(output))
    model(rows)
    handle.remove()
    if layout != "distilled":  # whose features are two rows
        (wanted,) = torch.autograd.grad((kept[0] @ concept.double()).sum(), rows)
        torch.testing.assert_close(second, wanted)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_the_size_of_chunks_changes_nothing(limit):
    model = build("distilled", dtype=torch.float64)
    images = pictures(model, 2, dtype=torch.float64)
    image = torch.randint(2, (13,))
    altered = torch.randn(13, 3, 32, 32, dtype=torch.float64)
    found, sizes = runs(model, images), []
    wanted = found.scores(image, lambda start, stop: altered[start:stop])
    limited = dataclasses.replace(found, limit=limit)
    handle = model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    torch.testing.assert_close(limited.scores(image, lambda start, stop: altered[start:stop]), wanted)
    handle.remove()
    assert sum(sizes) == 13
    assert max(sizes) <= limit


MANY = "integrated_gradients:steps=7,rise:masks=20,token_ablation,tis:masks=9,vit_cx:max_forwards=8"


def refusing(most):
    """A hook that behaves as a device on which no more than so many pictures fit."""

    def hook(_, inputs):
        if len(inputs[0]) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")

    return hook


def test_exhausted_memory_is_survived():
    model = build()
    images = pictures(model, 2)
    explainer = vitscope.Explainer(model)
    wanted = explainer(images, MANY)
    handle = model.register_forward_pre_hook(refusing(2))
    found = explainer(images, MANY)
    handle.remove()
    for label in wanted:
        torch.testing.assert_close(found[label].values, wanted[label].values, rtol=1e-3, atol=1e-5)


def test_a_picture_that_does_not_fit_by_itself_is_named():
    model = build()
    images = pictures(model, 1)
    found = runs(model, images)
    handle = model.register_forward_pre_hook(refusing(0))
    with pytest.raises(vitscope.MethodError, match="one picture by itself does not fit into the memory of cpu"):
        found.scores(torch.zeros(5, dtype=torch.long))
    handle.remove()
    assert not model._forward_hooks
    assert not model.norm._forward_pre_hooks


def test_an_error_of_another_kind_is_not_taken_for_it():
    assert out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    calls = []

    def job(start, stop):
        calls.append((start, stop))
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        Chunks(torch.device("cpu")).over(5, job, lambda done: None)
    assert len(calls) == 1


def test_chunks_grow_to_what_memory_holds(monkeypatch):
    chunks = Chunks(torch.device("cpu"))
    monkeypatch.setattr(Chunks, "_free", lambda _: 2 * 4000 * 20)  # 20 pictures of two tensors of 4000 bytes
    sizes = []

    def job(start, stop):
        sizes.append(stop - start)
        return torch.zeros(stop - start, 1000).abs()

    assert chunks.over(70, job, lambda done: None).shape == (70, 1000)
    assert sizes == [8, 20, 20, 20, 2]


def test_reading_pictures_that_were_not_declared_names_it():
    model = build()
    trace = record(anatomy_of(model), pictures(model), Needs(), [Predicted()])
    with pytest.raises(vitscope.MethodError, match="declare `pictures`"):
        trace.pictures()


def test_progress_is_reported_to_its_end():
    model = build()
    told = {}
    images = pictures(model, 2)
    labels = f"cdam,input_x_gradient,{MANY},smoothgrad:samples=3,scorecam:max_forwards=5"
    vitscope.Explainer(model)(images, labels, progress=lambda *of: told.setdefault(of[0], []).append(of[1:]))
    assert not {"cdam", "input_x_gradient"} & told.keys()
    assert told["token_ablation"][-1] == (32, 32)
    assert told["smoothgrad:samples=3"][-1] == (6, 6)
    for steps in told.values():
        done = [one for one, _ in steps]
        assert done == sorted(done)
        assert done[-1] == steps[-1][1]
        assert len({total for _, total in steps}) == 1


def test_a_lone_picture_has_the_gradient_of_a_batch():
    """Finite differences along a random direction, through LeViT's stem of convolutions and batch norms."""
    model = perturbed(timm.create_model("levit_128s", num_classes=7), by=0.05).double()
    explainer = vitscope.Explainer(model)
    images = torch.randn(2, 3, 224, 224).double()
    trace = record(explainer.anatomy, images, Needs(pictures=True), [Class(3)])
    score = trace.pictures().differentiable(0)
    for index in range(2):
        leaf, which = images[index : index + 1].clone().requires_grad_(), torch.tensor([index])
        (gradient,) = torch.autograd.grad(score(leaf, which).sum(), leaf)
        along = torch.randn(1, 3, 224, 224).double()
        with torch.no_grad():
            ahead, behind = (model(images[index : index + 1] + step * along)[0, 3] for step in (1e-6, -1e-6))
        assert torch.allclose((gradient * along).sum(), (ahead - behind) / 2e-6, rtol=1e-4)
