"""Randomisation of weights: which layers, exactly restored, the user's model only read; a deaf method is found out."""

from __future__ import annotations

import copy

import pytest
import torch

import vitscope
from tests.conftest import build, pictures
from vitscope.metrics import GridMaps, Randomisation, layers_of, randomised, spearman, ssim

BLOCKS = ("blocks.0", "blocks.1", "blocks.2")
ORDER = ["head", "blocks.2", "blocks.1", "blocks.0", "embedding"]


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model, before):
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_every_parameter_is_in_one_layer_from_the_head_down():
    model = build("dinov2_registers")
    layers = layers_of(model, BLOCKS)
    assert list(layers) == ORDER
    names = [name for names in layers.values() for name in names]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert set(layers["head"]) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "reg_token"} <= set(layers["embedding"])
    assert "cls_token" in layers_of(model, BLOCKS, head=("cls_",))["head"]


@pytest.mark.parametrize("how", ["normal", "permute"])
@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_what_is_random_at_each_depth_and_nothing_of_the_users(order, how):
    model = build()
    before, kept = state(model), copy.deepcopy(model)
    flags = [p.requires_grad for p in model.parameters()]
    names, so_far = [], set()
    for step in randomised(model, BLOCKS, order, how, seed=3):
        names.append(step.name)
        so_far |= set(step.parameters)
        assert changed(step.model, before) == (so_far if order == "cascading" else set(step.parameters))
        assert not changed(model, before)
        assert step.model is not model
        last = step.model
    assert names == ORDER
    assert changed(last, before) == (set(dict(model.named_parameters())) if order == "cascading" else set())
    assert flags == [p.requires_grad for p in model.parameters()]
    x = pictures(model)
    assert torch.equal(model(x), kept(x))


def test_new_weights_are_of_the_old_ones_kind_and_of_the_seed():
    model = build(embed_dim=96)
    name = "blocks.1.mlp.fc1.weight"
    old = model.get_parameter(name)

    def drawn(order, how, seed):
        for step in randomised(model, BLOCKS, order, how, seed):
            if step.name == "blocks.1":
                return step.model.get_parameter(name).detach().clone()
        raise AssertionError

    normal, permuted = drawn("cascading", "normal", 0), drawn("cascading", "permute", 0)
    assert normal.std().item() == pytest.approx(old.std().item(), rel=0.02)
    assert normal.mean().item() == pytest.approx(old.mean().item(), abs=0.01)
    assert torch.equal(permuted.flatten().sort().values, old.flatten().sort().values)
    assert torch.equal(normal, drawn("independent", "normal", 0))
    assert not torch.equal(normal, drawn("cascading", "normal", 1))
    assert torch.corrcoef(torch.stack([normal.flatten(), old.flatten()]))[0, 1].abs() < 0.05


def test_methods_of_the_model_fail_to_survive_and_a_deaf_one_survives():
    model = build(seed=int(torch.randint(2**31, ())))
    explainer = vitscope.Explainer(model)
    images = pictures(model, 3)
    metric = Randomisation()
    first = explainer(images, "attention,center", None)
    altered = {label: [] for label in first}
    for step in metric.steps(model, [block.name for block in explainer.anatomy.blocks]):
        of_step = vitscope.Explainer(step.model)(images, "attention,center", None)
        for label in first:
            altered[label].append(GridMaps(of_step[label].values, (32, 32)))
    results = {label: metric.compare(GridMaps(first[label].values, (32, 32)), maps) for label, maps in altered.items()}
    for name in ("spearman", "ssim"):
        assert torch.allclose(results["center"].values[name], torch.ones(3, dtype=torch.float64))
        # Attention of the last block does not read the head, and is another once blocks are random.
        curve = results["attention"].curves[name].y
        assert torch.allclose(curve[:, 0], torch.ones(3, dtype=torch.float64), atol=1e-4)
        assert (curve[:, -1] < 0.95).all()
        assert (results["attention"].values[name] < 1).all()


def test_the_curves_are_both_similarities_at_each_depth():
    original, others = (torch.randn(3, 7, 8), [torch.randn(3, 7, 8), None, torch.randn(3, 7, 8)])
    size = (28, 32)
    grids = [None if one is None else GridMaps(one, size) for one in others]
    found = Randomisation().compare(GridMaps(original, size), grids)
    for depth, other in enumerate(others):
        if other is None:
            assert found.curves["ssim"].y[:, depth].isnan().all()
            continue
        torch.testing.assert_close(found.curves["spearman"].y[:, depth], spearman(original, other))
        enlarged = [GridMaps(one, size).bilinear for one in (original, other)]
        torch.testing.assert_close(found.curves["ssim"].y[:, depth], ssim(*enlarged))
    assert found.curves["ssim"].x.tolist() == [1, 2, 3]
    torch.testing.assert_close(found.values["ssim"], found.curves["ssim"].y[:, [0, 2]].mean(dim=1))


def test_blocks_that_are_not_there_are_named():
    for blocks, words in (((), "no block"), (("layers.0",), "called layers.0")):
        with pytest.raises(vitscope.MetricError, match=words):
            layers_of(build(), blocks)
    with pytest.raises(vitscope.MetricError, match="no depth"):
        Randomisation().compare(GridMaps(torch.rand(1, 3, 3), (9, 9)), [])
