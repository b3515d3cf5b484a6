"""Infidelity and sensitivity-max against Captum, which is given the same alterations."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import build, pictures
from vitscope.metrics import (
    Forwards,
    GridMaps,
    Infidelity,
    ModelScorer,
    Pictures,
    SensitivityMax,
    evaluate,
    over_alterations,
)
from vitscope.metrics.squares import squares_of

library = pytest.importorskip("captum.metrics", reason="Captum is not installed")


@pytest.fixture
def world():
    seed = int(torch.randint(2**31, ()))
    model = build("non_square", seed=seed, dtype=torch.float64)
    tensor = pictures(model, 3, seed=seed + 1, dtype=torch.float64)
    return model, Pictures(tensor, (8, 8), (0.5,) * 3, (0.5,) * 3, torch.randint(7, (3,)), keys=(11, 12, 13))


@pytest.mark.parametrize("scaled", [True, False])
def test_infidelity_is_captums(world, scaled):
    model, given = world
    maps, count = GridMaps(torch.randn(3, 4, 6), (32, 48)), 12
    places = squares_of(given, count, 0.1, 0.5, 0)

    def removed(inputs):  # (3 * count), each picture's alterations in a row
        altered = inputs.clone()
        for row, (top, left, side) in enumerate(places.flatten(0, 1).tolist()):
            altered[row, :, top : top + side, left : left + side] = 0
        return inputs - altered, altered

    expected = library.infidelity(
        model,
        removed,
        given.tensor,
        maps.nearest.double()[:, None].expand(-1, 3, -1, -1),
        target=given.explained,
        n_perturb_samples=count,
        normalize=scaled,
    )
    metric = Infidelity(squares=count, scaled=scaled)
    (found,) = evaluate([(metric, maps)], Forwards(ModelScorer(model), given))
    torch.testing.assert_close(found.values["infidelity"], expected.detach(), atol=1e-6, rtol=1e-5)


def test_sensitivity_max_is_captums(world):
    _, given = world
    metric = SensitivityMax(radius=0.3, samples=6)
    copies = [one.make(torch.arange(3)) for one in metric.alterations(given)]
    assert all(float((copy - given.tensor).abs().max()) <= 0.3 for copy in copies)
    assert all(float((copy - given.tensor).abs().max()) > 0.25 for copy in copies)

    def explain(images):
        return images.unflatten(-1, (6, 8)).unflatten(-3, (4, 8)).pow(2).mean(dim=(1, 3, 5))

    expected = library.sensitivity_max(
        lambda inputs: (explain(inputs[0] if isinstance(inputs, tuple) else inputs),),
        given.tensor,
        perturb_func=lambda inputs: torch.stack(copies, dim=1).flatten(0, 1),
        n_perturb_samples=6,
    )
    found = over_alterations(
        metric, given, {"toy": explain(given.tensor)}, lambda images, index: {"toy": explain(images)}, at_once=4
    )
    torch.testing.assert_close(found["toy"].values["max"], expected, atol=1e-9, rtol=1e-9)
