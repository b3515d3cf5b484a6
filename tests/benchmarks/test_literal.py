"""The papers' literal procedures, which use nothing of vitscope, give vitscope's maps."""

from __future__ import annotations

import pytest
import torch

import vitscope
from benchmarks import literal
from tests.conftest import build, pictures

pytestmark = pytest.mark.integration

CLASSES = [[4, 0], [1, 6]]


@pytest.mark.parametrize("layout", ["vit", "non_square", "deit3", "qk_norm", "scale_norm", "dinov2_registers"])
def test_they_give_vitscopes_maps(layout):
    model = build(layout, dtype=torch.float64)
    images = pictures(model, 2, seed=int(torch.randint(1000, ())), dtype=torch.float64)
    found = vitscope.Explainer(model).each(images, "daam,agcam,cdam", CLASSES)
    for method in literal.PROCEDURES:
        wanted = literal.explain(method, model, images, CLASSES)
        for one, maps in zip(found, wanted, strict=True):
            ours = one[method].values.flatten(1).double()
            assert (ours - maps).norm() / maps.norm() < 1e-5, method


def test_one_after_the_other_gives_the_last():
    model = build()
    images = pictures(model, 1)
    last = literal.explain("daam,agcam,cdam", model, images, [[3]])
    alone = literal.explain("cdam", model, images, [[3]])
    assert torch.equal(last[0], alone[0])


def test_the_model_is_left_as_found():
    model = build()
    attention = [block.attn for block in model.blocks]
    with pytest.raises(IndexError):
        literal.explain("daam", model, pictures(model, 1), [[999]])
    literal.explain("cdam", model, pictures(model, 1), [[0]])
    assert [block.attn for block in model.blocks] == attention
    assert not model.blocks[-1].norm1._forward_hooks
    assert all(parameter.grad is None for parameter in model.parameters())


def test_every_attention_matrix_is_kept():
    model = build()
    with literal.kept(model) as blocks:
        model(pictures(model, 1))
    assert [tuple(block.matrix.shape) for block in blocks] == [(1, 3, 17, 17)] * 3
