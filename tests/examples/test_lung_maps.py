"""The model and the measurements on its maps, on made-up views and maps whose answers are known."""

import math

import numpy as np
import pytest
import torch
from examples.lung_nodules import maps as mapping
from examples.lung_nodules.maps import AGNOSTIC, EXPECTED, METHODS, Maps, Regions, estimate, explain, measure
from examples.lung_nodules.network import Recipe, area_under_curve, backbone, train
from examples.lung_nodules.nodules import SIDE, Nodule, View
from examples.lung_nodules.study import Study, malignant, values
from scipy.stats import mannwhitneyu

from vitscope.errors import DatasetError

pytestmark = pytest.mark.integration

OUTPUTS = ("malignancy", "spiculation", "texture", "calcified", "margin")


def view(name: str, malignancy: float, seed: int = 0, patient: str = "p", radius: float = 6) -> View:
    """A bright disk with a brighter spot, brighter where it is malignant."""
    rows, columns = np.ogrid[:SIDE, :SIDE]
    away = np.sqrt((rows - 16) ** 2 + (columns - 16) ** 2)
    rng = np.random.default_rng(seed)
    hu = np.where(away < radius, -300 + 80 * malignancy, -850) + 30 * rng.standard_normal((SIDE, SIDE))
    picture = np.repeat(np.clip((hu + 1000) / 1400 * 255, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    ratings = dict.fromkeys(OUTPUTS, malignancy) | {"texture": 3 + rng.normal()}
    cube = np.zeros((SIDE, SIDE, SIDE), dtype=np.float32)
    nodule = Nodule(name, patient, ratings, 4, 2 * radius, cube, cube > 0)
    return View(nodule, "axial", picture, away < radius, away < 2)


def flat(value: float = 1.0) -> torch.Tensor:
    return torch.full((1, SIDE, SIDE), value)


def on(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask).float()[None]


def made(views, by_output) -> Maps:
    """Maps of one view, the same by all methods; grids are the pixels."""
    pixels = {(method, name): by_output.get(name, flat()) for name in OUTPUTS for method in METHODS}
    pixels |= {(method, ""): flat() for method in AGNOSTIC}
    return Maps(tuple(views), OUTPUTS, pixels, pixels, {})


def test_masses_are_those_of_maps_that_lie_where_they_were_put():
    one = view("a", 4)
    regions = Regions.of([one])
    rim = regions.rim[0].numpy()
    halved = on(one.mask) / on(one.mask).sum() + on(~one.mask) / on(~one.mask).sum()
    found = measure(made([one], {"malignancy": on(rim), "calcified": -on(one.calcium), "texture": halved}))
    assert found.rim["cdam", "malignancy"] == pytest.approx([1.0])
    assert found.near["cdam", "malignancy"] == pytest.approx([1.0])
    assert found.calcium["cdam", "malignancy"] == pytest.approx([0.0])
    assert found.calcium["cdam", "calcified"] == pytest.approx([1.0]), "evidence against counts as well"
    assert found.rim["cdam", "calcified"] == pytest.approx([0.0])
    assert found.within["cdam", "texture"] == pytest.approx([0.5])
    assert found.within["frame", ""] == pytest.approx([one.mask.mean()])


def test_regions_lie_as_far_from_the_outline_as_they_say():
    regions = Regions.of([view("a", 4, radius=8)])
    rows, columns = np.ogrid[:SIDE, :SIDE]
    away = np.sqrt((rows - 16) ** 2 + (columns - 16) ** 2)
    for part, low, high in (("core", -1, 5.5), ("rim", 6, 12), ("grown", -1, 12)):
        region = getattr(regions, part)[0].numpy()
        sure = ((away > low + 0.8) & (away < high - 0.8)), ((away < low - 0.8) | (away > high + 0.8))
        assert region[sure[0]].all(), part
        assert not region[sure[1]].any(), part


def test_agreement_is_one_with_itself_and_minus_one_with_the_opposite():
    noise = torch.randn(1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found = measure(made([view("a", 4)], {"malignancy": noise, "spiculation": 3 * noise, "texture": -noise}))
    assert found.agreement["cdam", "spiculation"] == pytest.approx([1.0])
    assert found.agreement["cdam", "texture"] == pytest.approx([-1.0])
    assert np.isnan(found.agreement["cdam", "margin"]).all(), "a constant map agrees with nothing"


def test_expectations_hold_of_maps_that_show_the_truth_and_fail_of_swapped_ones():
    views = [view(f"n{seed}", 4, seed, radius=6 + seed % 3) for seed in range(6)]
    regions = Regions.of(views)
    spikes = regions.rim.float() + 0.01 * torch.rand(regions.rim.shape, generator=torch.Generator().manual_seed(1))
    filling, calcium = regions.core.float(), regions.calcium.float()
    true = {"malignancy": spikes, "spiculation": spikes, "texture": filling, "calcified": calcium, "margin": 1 - spikes}
    anywhere = 1 + 5 * calcium
    swapped = true | {"malignancy": calcium, "calcified": anywhere, "texture": anywhere}
    for by_output, sign in ((true, 1), (swapped, -1)):
        pixels = {(method, name): by_output[name] for name in OUTPUTS for method in METHODS}
        pixels |= {(method, ""): torch.ones_like(spikes) for method in AGNOSTIC}
        found = measure(Maps(tuple(views), OUTPUTS, pixels, pixels, {}))
        for one in EXPECTED[4:10]:
            assert sign * estimate(one.difference(found, "cdam")).mean > 0, one.name


def test_a_nodule_is_the_mean_of_its_views_and_missing_maps_are_left_out():
    views = [view("a", 4), view("a", 4), view("b", 4)]
    pixels = torch.cat([on(views[0].mask), on(~views[0].mask), torch.full((1, SIDE, SIDE), torch.nan)])
    both = {(method, name): pixels for name in OUTPUTS for method in METHODS}
    both |= {(method, ""): torch.ones_like(pixels) for method in AGNOSTIC}
    found = measure(Maps(tuple(views), OUTPUTS, both, both, {}))
    assert found.nodules == ("a", "b")
    assert found.within["cdam", "malignancy"][0] == pytest.approx(0.5)
    assert math.isnan(found.within["cdam", "malignancy"][1])
    assert estimate(found.within["cdam", "malignancy"]).n == 1
    assert estimate(np.array([np.nan])) is None


def test_the_area_under_the_curve_is_scipys():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 12, 200).astype(float), rng.integers(0, 2, 200).astype(float)
    high, low = scores[labels == 1], scores[labels == 0]
    assert area_under_curve(scores, labels) == pytest.approx(mannwhitneyu(high, low).statistic / (len(high) * len(low)))
    assert math.isnan(area_under_curve(scores, np.ones(200)))


def several(count: int = 24) -> list[View]:
    return [view(f"n{k}", 1 + k % 5, k, f"p{k // 2}", 5 + k % 4) for k in range(count)]


def test_no_patient_is_in_both_parts_and_the_split_does_not_hang_on_the_order():
    views = several(40)
    learned, tested = Study(tuple(views), (), (), ()).split()
    patients = [{one.nodule.patient for one in part} for part in (learned, tested)]
    assert patients[0].isdisjoint(patients[1])
    assert len(patients[1]) == 5
    again = Study(tuple(reversed(views)), (), (), ()).split()
    assert {one.nodule.patient for one in again[1]} == patients[1]


def test_labels_are_those_of_the_ratings():
    assert malignant([view("a", 2), view("b", 3), view("c", 5)]).tolist()[::2] == [0.0, 1.0]
    assert math.isnan(malignant([view("b", 3)])[0])
    assert values([view("a", 2)], ("diameter", "margin")).tolist() == [[12.0, 2.0]]


@pytest.mark.parametrize("frozen", [False, True])
def test_training_learns_and_the_frozen_backbone_stays_as_it_is(frozen):
    views = several()
    recipe = Recipe(epochs=3 if frozen else 14, depth=2, frozen=frozen, batch=12)
    losses = []
    trained = train(views, ("diameter", "margin"), recipe, lambda epoch, loss: losses.append(loss))
    assert losses[-1] < losses[0]
    model, start = trained.explainer.anatomy.model, backbone(3, 2)
    same = {name: torch.equal(value, start.state_dict()[name]) for name, value in model.state_dict().items()}
    assert all(same[name] for name in same if not name.startswith("head")) is frozen
    assert not same["head.weight"]
    scores = trained.scores(views)
    assert scores.auc > 0.8
    assert scores.errors["diameter"] < 0.8 * scores.trivial["diameter"]
    assert scores.trivial["margin"] == pytest.approx(1.0)


def test_the_same_seed_gives_the_same_model_and_another_one_another():
    views = several(12)
    first, again, other = (
        train(views, ("margin",), Recipe(epochs=1, depth=1, batch=6, seed=seed)).predict(views) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_without_both_kinds_of_nodules_nothing_is_trained():
    with pytest.raises(DatasetError, match=r"not both malignant and benign.*read more scans"):
        train([view("a", 4)], ("margin",), Recipe(epochs=1))


def test_every_method_maps_every_output_and_a_flat_one_is_missing_not_zero(monkeypatch):
    monkeypatch.setattr(mapping, "BATCH", 3)
    views = several(8)
    trained = train(views, OUTPUTS[1:], Recipe(epochs=1, depth=2, batch=8))
    head = trained.explainer.anatomy.model.head
    with torch.no_grad():
        head.weight[3] = 0.0  # an output that hangs on nothing has no map
    found = explain(trained, views[:5])
    assert set(found.grids) == {(m, n) for m in METHODS for n in OUTPUTS} | {(m, "") for m in AGNOSTIC}
    assert {key for key, count in found.missing.items() if count} == {(m, "calcified") for m in METHODS}
    assert found.pixels["cdam", "malignancy"].shape == (5, SIDE, SIDE)
    first = explain(trained, views[:5], ("malignancy",))
    assert set(first.grids) == {(m, "malignancy") for m in METHODS} | {(m, "") for m in AGNOSTIC}
    assert all(
        torch.allclose(grid, found.grids[key], rtol=1e-3, atol=1e-6)
        for key, grid in first.grids.items()
        if key[0] != "random"
    )
    assert measure(first).agreement == {}
    whole = trained.explainer([one.picture for one in views[:5]], "cdam", mapping.Output(0))["cdam"]
    assert torch.allclose(found.grids["cdam", "malignancy"], whole.values, atol=1e-5)
