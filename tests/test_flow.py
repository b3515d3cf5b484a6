"""The reading of the attention flow, against the model with a block's attention taken out by hand."""

import copy
from contextlib import suppress

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import vitscope
from tests.conftest import build, pictures
from vitscope.errors import FlatMapError, MethodError
from vitscope.flow import attention_flow
from vitscope.models import anatomy_of
from vitscope.targets import ClassNames, MemoryBank, Neighbours, Probability
from vitscope.trace import Needs, record, without_attention
from vitscope.view.flow import flow_chart


def ablated(model, block, rows):
    """A copy whose block adds no attention, for all rows or the first `rows`."""
    again = copy.deepcopy(model)
    whole = again.blocks[block].attn.forward

    def forward(x, *args, **kwargs):
        found = whole(x, *args, **kwargs)
        return torch.cat([torch.zeros_like(found[:, :rows]), found[:, rows:]], dim=1)

    again.blocks[block].attn.forward = forward
    return again


@pytest.mark.parametrize("rows", ["all", "read"])
@pytest.mark.parametrize("method", ["daam", "agcam"])
def test_the_reading_is_what_it_says(layout, rows, method):
    for _ in range(9):
        model = build(layout, seed=int(np.random.default_rng().integers(1000)))
        images = pictures(model, 2)
        explainer = vitscope.Explainer(model)
        with suppress(FlatMapError):  # of one block, no patch may speak for a random class
            flow = attention_flow(explainer, images, method, rows=rows)
            break
    maps = explainer(images, method)[method]
    with torch.no_grad():
        logits = model(images)
    classes = logits.argmax(1)
    depth, kept = len(model.blocks), None if rows == "all" else explainer.anatomy.rows_read
    for image in range(2):
        mass = maps.blocks[image].sum((1, 2))
        torch.testing.assert_close(flow.share[image], mass / mass.sum())
        for block in range(depth):
            with torch.no_grad():
                without = ablated(model, block, 10_000 if kept is None else kept)(images)
            drop = logits[image, classes[image]] - without[image, classes[image]]
            assert float(flow.drop[image, block]) == pytest.approx(float(drop), abs=2e-4, rel=1e-3)
            wanted = spearmanr(maps.blocks[image, block].flatten(), maps.values[image].flatten()).statistic
            if not np.isnan(wanted):
                assert float(flow.agreement[image, block]) == pytest.approx(wanted, abs=1e-6)
        if depth > 2:
            wanted = spearmanr(flow.share[image], flow.drop[image]).statistic
            assert float(flow.correlation[image]) == pytest.approx(wanted, abs=1e-6)
        whole = int(flow.half[image])
        reached = float(flow.share[image, :whole].sum()) + (float(flow.half[image]) - whole) * float(
            flow.share[image, min(whole, depth - 1)]
        )
        assert reached == pytest.approx(0.5, abs=1e-5)


def test_the_context_leaves_nothing_behind():
    model = build()
    images = pictures(model)
    anatomy = anatomy_of(model)
    with torch.no_grad():
        before = model(images)
        try:
            with without_attention(anatomy, 1):
                assert not torch.allclose(model(images), before)
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert torch.equal(model(images), before)
    assert not any(module._forward_hooks for module in model.modules())


def test_other_targets_and_methods_without_blocks():
    explainer = vitscope.Explainer(build())
    images = pictures(explainer.anatomy.model)
    contrast = attention_flow(explainer, images, target=vitscope.targets.Contrast(1, 2))
    concept = attention_flow(explainer, images, target=vitscope.targets.Concept(explainer.features(images)))
    assert contrast.drop.shape == concept.drop.shape == (2, 3)
    with pytest.raises(MethodError, match="no map a block"):
        attention_flow(explainer, images, "cdam")


def test_the_chart_is_a_picture_also_with_gaps():
    rng = np.random.default_rng(0)
    agreement = rng.random((3, 5))
    agreement[:, 2] = np.nan
    chart = flow_chart(rng.random((3, 5)), rng.normal(size=(3, 5)), agreement, "title", "attention")
    assert chart.mode == "RGB"
    assert chart.width > 1000
    assert np.asarray(chart).std() > 5


def seed():
    return int(torch.randint(2**31, ()))


def test_a_probability_falls_as_a_probability():
    model = build(seed=seed())
    images, classes = pictures(model, 3, seed=seed()), torch.randint(7, (3,))
    flow = attention_flow(vitscope.Explainer(model), images, target=Probability(classes))
    assert "probability" in flow.subject.asked
    with torch.no_grad():
        before = model(images).softmax(1).gather(1, classes[:, None])[:, 0]
        for block in range(3):
            after = ablated(model, block, 10_000)(images).softmax(1).gather(1, classes[:, None])[:, 0]
            torch.testing.assert_close(flow.drop[:, block], before - after, atol=1e-4, rtol=1e-3)


def test_the_predicted_class_is_that_of_the_whole_model():
    model = build(seed=seed())
    images = pictures(model, 4, seed=seed())
    explainer = vitscope.Explainer(model)
    classes = explainer(images, "daam").target
    asked, free = (attention_flow(explainer, images, target=target) for target in (classes, None))
    torch.testing.assert_close(free.drop, asked.drop, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("weighting", ["official", "equation"])
def test_the_weights_of_neighbours_are_those_of_the_unaltered_picture(weighting, monkeypatch):
    model = build(num_classes=0, seed=seed())
    images = pictures(model, 3, seed=seed())
    bank = MemoryBank.of(torch.randn(40, 24), torch.arange(40) % 4, ClassNames(tuple("abcd")))
    explainer, target = vitscope.Explainer(model), Neighbours(bank, k=7, weighting=weighting)
    asked, weigh = [], Neighbours.weights
    monkeypatch.setattr(Neighbours, "weights", lambda self, rows: asked.append(rows.detach()) or weigh(self, rows))
    flow = attention_flow(explainer, images, target=target)
    whole = explainer.features(images)
    for rows in asked:
        torch.testing.assert_close(rows, whole, atol=1e-4, rtol=1e-3)
    weight = target.weights(whole)
    for block in range(3):
        with without_attention(explainer.anatomy, block):
            without = record(explainer.anatomy, images, Needs(), [target]).features
        torch.testing.assert_close(flow.drop[:, block], (weight * (whole - without)).sum(1), atol=1e-4, rtol=1e-3)


def test_a_memory_limit_holds_for_the_passes_without_attention_too():
    model = build(seed=seed())
    images = pictures(model, 6, seed=seed())
    sizes = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    one, other = vitscope.Explainer(model), vitscope.Explainer(model, memory_limit=1)
    wanted = attention_flow(one, images)
    sizes.clear()
    found = attention_flow(other, images)
    assert set(sizes) == {1}
    assert len(sizes) == 6 * (1 + 1 + 3)
    torch.testing.assert_close(found.drop, wanted.drop, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.share, wanted.share)
