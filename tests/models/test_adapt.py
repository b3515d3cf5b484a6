"""Models of anyone's own: adapted by a layout, found out by running them, or within other modules."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vitscope
from tests.conftest import TINY, perturbed
from vitscope.models import anatomy_of

METHODS = ["daam", "agcam", "cdam", "smooth_cdam:samples=3", "attention"]
PREPARED = {"size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}


def maps(model, images, methods=METHODS):
    ex = vitscope.Explainer(model, preprocessing=PREPARED)(images, methods)
    return {label: ex[label].values for label in methods}, ex.logits


def same(one, other):
    return all(float((one[label] - other[label]).norm() / other[label].norm()) < 1e-4 for label in other)


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return perturbed(VisionTransformer(**TINY, init_values=0.1, qk_norm=True))


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def layout(vit, **changes):
    parts = vitscope.Layout(
        blocks=vit.blocks,
        final_norm=vit.norm,
        head=vit.head,
        patch=8,
        image_size=32,
        scale1="ls1",
        scale2="ls2",
        query_norm="attn.q_norm",
        key_norm="attn.k_norm",
    )
    return dataclasses.replace(parts, **changes)


def test_a_layout_says_what_the_adapter_says(vit, images):
    known, _ = maps(vit, images)
    adapted, _ = maps(vitscope.adapt(vit, layout(vit)), images)
    assert same(adapted, known)


def test_a_layout_with_layers_apart_and_multi_head_attention(images):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.cut, self.ln, self.head = nn.Conv2d(3, 24, 8, 8), nn.LayerNorm(24), nn.Linear(24, 7)
            self.layers = nn.ModuleList(Plain() for _ in range(2))

        def forward(self, x):
            x = self.cut(x).flatten(2).transpose(1, 2)
            for layer in self.layers:
                x = layer(x)
            return self.head(self.ln(x).mean(dim=1))

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.n1, self.n2, self.ff = nn.LayerNorm(24), nn.LayerNorm(24), nn.Linear(24, 24)
            self.mha = nn.MultiheadAttention(24, 3, batch_first=True)

        def forward(self, x):
            t = self.n1(x)
            x = x + self.mha(t, t, t, need_weights=False)[0]
            return x + self.ff(self.n2(x))

    model = perturbed(Encoder())
    parts = vitscope.Layout(
        blocks=model.layers,
        final_norm=model.ln,
        head=model.head,
        patch=8,
        image_size=32,
        prefix=(),
        reads="mean",
        norm1="n1",
        attention="mha",
        norm2="n2",
        mlp="ff",
        any_size=True,
    )
    found, logits = maps(vitscope.adapt(model, parts), images)
    assert all(values.shape == (2, 4, 4) for values in found.values())
    assert torch.allclose(logits, model(images), atol=1e-5)


def test_blocks_called_by_name_are_those_called_by_place(vit, images):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = vit

        def forward(self, x):
            tokens = self.vit._pos_embed(self.vit.patch_embed(x))
            for block in self.vit.blocks:
                tokens = block(x=tokens)
            return self.vit.forward_head(self.vit.norm(tokens))

    methods = ["daam", "daam:rows=all", "chefer", "cplrp", "attcat", "libra_fullgrad", "input_x_gradient"]
    wanted, _ = maps(vit, images, methods)
    named, _ = maps(vitscope.adapt(Named(), layout(vit)), images, methods)
    assert same(named, wanted)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"blocks": []}, "names no blocks"),
        ({"norm1": "ln"}, "block 0, a Block, has no 'ln'"),
        ({"prefix": ()}, "names no prefix token"),
        ({"scale1": None}, "residual sum differs"),
        ({"reads": "mean"}, "the head differs"),
        ({"key_norm": None}, "keys differs"),
        ({"patch": 16}, "17 tokens where 1 prefix tokens and 2 x 2 patches make 5"),
    ],
)
def test_a_wrong_layout_is_named(vit, change, says):
    with pytest.raises(vitscope.ModelError, match=says):
        vitscope.Explainer(vitscope.adapt(vit, layout(vit, **change)), preprocessing=PREPARED)


class Own(nn.Module):
    """A home-made model of timm's blocks."""

    def __init__(self, reads, image_size=32):
        super().__init__()
        self.reads, self.image_size = reads, image_size
        self.cut, self.token = nn.Conv2d(3, 24, 8, 8), nn.Parameter(torch.randn(1, 1, 24))
        self.places = nn.Parameter(torch.randn(1, 17, 24))
        self.layers = nn.ModuleList(TimmBlock(24, 3) for _ in range(3))
        self.ln, self.head = nn.LayerNorm(24), nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 7))

    def forward(self, x):
        x = self.cut(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.places
        for layer in self.layers:
            x = layer(x)
        reads = {
            "class": lambda: self.ln(x)[:, 0],
            "mean": lambda: self.ln(x)[:, 1:].mean(dim=1),
            "all": lambda: self.ln(x.mean(dim=1)),
            "odd": lambda: self.ln(x)[:, 3] * 2,
        }
        return self.head(reads[self.reads]())


@pytest.mark.parametrize(("reads", "rows"), [("class", 1), ("mean", None), ("all", None)])
def test_a_model_of_timm_blocks_is_found_out(reads, rows, images):
    torch.manual_seed(0)
    model = perturbed(Own(reads))
    anatomy = anatomy_of(model)
    assert (anatomy.rows_read, anatomy.outputs, anatomy.prefix) == (rows, 7, ("class",))
    found, logits = maps(model, images)
    assert torch.allclose(logits, model(images), atol=1e-5)
    assert all(torch.isfinite(values).all() for values in found.values())


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: Own("odd"), "how the output of Own follows from layers was not found"),
        (lambda: Own("class", image_size=48), "does not take a picture of 48 x 48 pixels"),
        (lambda: nn.ModuleDict({"a": Own("class"), "b": Own("mean")}), "holds several lists of blocks"),
    ],
)
def test_what_is_not_found_out_is_said_with_the_way_out(model, says):
    with pytest.raises(vitscope.ModelError, match=says) as caught:
        anatomy_of(model())
    assert "vitscope.adapt" in str(caught.value)


class Normalise(nn.Module):
    def forward(self, x):
        return (x - 0.4) / 0.25


class Holder(nn.Module):
    def __init__(self, model, behind=None):
        super().__init__()
        self.model, self.behind = model, behind or nn.Identity()

    def forward(self, x):
        return self.behind(self.model(x))


class Twice(Holder):
    def forward(self, x):
        return self.model(x) + self.model(x.flip(-1))


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, Holder, lambda m: torch.compile(m, backend="eager"), lambda m: nn.Sequential(m)]
)
def test_wrappers_change_nothing(wrap, vit, images):
    known, logits = maps(vit, images)
    found, again = maps(wrap(vit), images)
    assert same(found, known)
    assert torch.allclose(again, logits, atol=1e-5)


def test_preprocessing_inside_is_part_of_the_model(vit, images):
    known, logits = maps(vit, Normalise()(images))
    found, again = maps(nn.Sequential(Normalise(), vit), images)
    assert same(found, known)
    assert torch.allclose(again, logits, atol=1e-5)


def test_a_head_of_ones_own_is_the_classifier(vit, images):
    backbone = perturbed(VisionTransformer(**{**TINY, "num_classes": 0}))
    model = perturbed(Holder(backbone, nn.Linear(24, 5)))
    anatomy = anatomy_of(model)
    assert (anatomy.outputs, anatomy.classifier.heads[0]) == (5, model.behind)
    evidence = vitscope.Explainer(model, preprocessing=PREPARED).evidence(images)
    cdam = vitscope.Explainer(model, preprocessing=PREPARED)(images, "cdam", 3)["cdam"]
    assert torch.allclose(evidence[3], cdam.values, rtol=1e-3, atol=1e-5)
    probabilities = anatomy_of(Holder(vit, nn.Softmax(dim=-1)))
    assert (probabilities.outputs, probabilities.classifier) == (7, None)
    assert anatomy_of(Holder(backbone, nn.LayerNorm(24))).outputs == 0


@pytest.mark.parametrize(
    ("wrap", "says"),
    [
        (Twice, "calls it 2 times"),
        (lambda m: nn.Sequential(nn.Upsample(size=16), nn.Upsample(size=24), m), "does not take a picture"),
        (lambda m: nn.Sequential(m, nn.Linear(7, 6), nn.Linear(6, 3)), "by more than one module"),
        (lambda m: nn.ModuleList([m, perturbed(VisionTransformer(**TINY))]), "holds several models"),
    ],
)
def test_a_wrapper_that_does_more_is_refused_by_name(wrap, says, vit):
    with pytest.raises(vitscope.ModelError, match=says):
        anatomy_of(wrap(vit))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"heads": 5}, "heads=5: queries of width 24 make no 5 heads"),
        ({"heads": 0}, "heads=0"),
        ({"qkv": "attn"}, "qkv='attn' is a Attention and no linear layer"),
        ({"qkv": "mlp.fc1"}, "heads=attn.num_heads: queries of width 32 make no 3 heads"),
        ({"qkv": ("attn.qkv", "attn.qkv")}, "names 2 layers"),
        ({"qkv": ("attn.proj", "mlp.fc1", "mlp.fc1")}, "block 0: the reading of queries, keys and values fails"),
        ({"projection": "mlp.fc1"}, "block 0: its projection fails"),
        ({"projection": "mlp.fc2"}, "block 0: its projection fails"),
        ({"projection": "attn"}, "block 0"),
        ({"mlp": "attn.qkv"}, "block 0: its feed-forward"),
        ({"mlp": "mlp.fc2"}, "block 0: its feed-forward fails"),
        ({"norm1": "norm2"}, "does not fit it"),
        ({"reads": "Class"}, "Layout:reads=Class is not understood; it takes class | mean; did you mean class"),
    ],
)
def test_a_layout_that_does_not_fit_is_one_clear_line(changes, says, vit, images):
    with pytest.raises(vitscope.ModelError) as error:
        maps(vitscope.adapt(vit, layout(vit, **changes)), images)
    assert says in str(error.value)


def test_pictures_of_a_size_that_the_model_does_not_take_are_named(vit):
    adapted = vitscope.adapt(vit, layout(vit, image_size=64))
    with pytest.raises(vitscope.ModelError, match="the model's pass over a picture of 64 x 64 pixels fails"):
        vitscope.Explainer(adapted, preprocessing={**PREPARED, "size": 64})


def test_lack_of_memory_is_no_fault_of_a_description(vit, monkeypatch):
    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(vit.blocks[1].mlp, "forward", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        vitscope.Explainer(vitscope.adapt(vit, layout(vit)), preprocessing=PREPARED)
