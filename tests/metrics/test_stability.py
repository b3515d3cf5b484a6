"""Stability: what is altered, how maps are brought back, and one batch for all methods."""

from __future__ import annotations

import pytest
import torch

import vitscope
from vitscope.metrics import Equivariance, NoiseStability, Pictures, SensitivityMax, over_alterations, pearson, spearman

METRICS = [NoiseStability(samples=2), NoiseStability(similarity="pearson"), Equivariance(), SensitivityMax(samples=2)]


def given(count=3, keys=(7, 8, 9)):
    return Pictures(
        torch.randn(count, 3, 32, 48), (8, 8), (0.5,) * 3, (0.5,) * 3, torch.zeros(count, dtype=torch.long), keys=keys
    )


def patches(images):
    """A map that moves along with the picture: the mean of each patch."""
    return images.unflatten(-1, (6, 8)).unflatten(-3, (4, 8)).mean(dim=(1, 3, 5))


def deaf(images):
    """A map that knows nothing of the picture."""
    return torch.arange(24.0).view(1, 4, 6).expand(len(images), -1, -1)


def both(images, index=None):
    return {"patches": patches(images), "deaf": deaf(images)}


def test_a_map_that_moves_along_is_perfect_and_one_that_stays_is_not():
    pictures = given()
    found = over_alterations(Equivariance(), pictures, both(pictures.tensor), both, at_once=4)
    for name in ("flip", "shift"):
        torch.testing.assert_close(found["patches"].values[name], torch.ones(3, dtype=torch.float64))
        assert (found["deaf"].values[name] <= 1).all()
    row_by_row = spearman(deaf(pictures.tensor), deaf(pictures.tensor).flip(-1))
    torch.testing.assert_close(found["deaf"].values["flip"], row_by_row)


def test_a_shift_shows_the_same_patches_elsewhere():
    pictures = given()
    _, down, up = Equivariance().alterations(pictures)
    index = torch.tensor([2, 0])
    assert torch.equal(down.make(index)[..., 8:, 8:], pictures.tensor[index][..., :-8, :-8])
    assert torch.equal(up.make(index)[..., :-8, :-8], pictures.tensor[index][..., 8:, 8:])
    assert torch.equal(down.make(index)[..., 0, 8:], pictures.tensor[index][..., 0, :-8])


def test_noise_is_of_the_asked_size_and_depends_on_the_key_alone():
    pictures = given()
    first, second = NoiseStability(level=0.2, samples=2).alterations(pictures)
    noise = first.make(torch.arange(3)) - pictures.tensor
    assert noise.std().item() == pytest.approx(0.2, rel=0.05)
    assert not torch.equal(first.make(torch.arange(3)), second.make(torch.arange(3)))
    turned = Pictures(pictures.tensor.flip(0), (8, 8), (0.5,) * 3, (0.5,) * 3, pictures.explained, keys=(9, 8, 7))
    again = NoiseStability(level=0.2, samples=2).alterations(turned)[0].make(torch.tensor([2]))
    assert torch.equal(again[0], first.make(torch.tensor([0]))[0])
    assert not torch.equal(NoiseStability(0.2, seed=1).alterations(pictures)[0].make(torch.arange(3)), noise)


@pytest.mark.parametrize("similarity", ["pearson", "spearman"])
def test_noise_stability_is_the_mean_similarity(similarity):
    pictures = given()
    metric = NoiseStability(level=0.5, samples=3, similarity=similarity)
    found = over_alterations(metric, pictures, both(pictures.tensor), both, at_once=2)
    alike = {"pearson": pearson, "spearman": spearman}[similarity]
    copies = [one.make(torch.arange(3)) for one in metric.alterations(pictures)]
    expected = torch.stack([alike(patches(pictures.tensor), patches(copy)) for copy in copies]).mean(dim=0)
    torch.testing.assert_close(found["patches"].values["similarity"], expected)
    torch.testing.assert_close(found["deaf"].values["similarity"], torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_all_methods_share_full_batches(metric):
    pictures, calls = given(), []

    def explains(images, index):
        calls.append(len(images))
        return both(images) | {"once": deaf(images)} if len(calls) == 1 else both(images)

    found = over_alterations(metric, pictures, both(pictures.tensor), explains, at_once=4)
    total = 3 * len(metric.alterations(pictures))
    assert calls == [4] * (total // 4) + ([total % 4] if total % 4 else [])
    assert set(found) == {"patches", "deaf"}
    for name, column in found["patches"].values.items():
        for image in range(3):
            part = slice(image, image + 1)
            alone = Pictures(
                pictures.tensor[part], (8, 8), (0.5,) * 3, (0.5,) * 3, pictures.explained[part], keys=(7 + image,)
            )
            one = over_alterations(metric, alone, both(alone.tensor), both)["patches"].values[name]
            assert one.item() == pytest.approx(column[image].item(), abs=1e-6)


def test_units_do_not_matter_and_a_map_without_value_is_nan():
    pictures = given()
    maps = both(pictures.tensor)
    for metric in METRICS:
        plain = over_alterations(metric, pictures, maps, both)["patches"].values
        scaled = over_alterations(
            metric,
            pictures,
            {"patches": maps["patches"] * 5},
            lambda images, index: {"patches": patches(images) * 5},
        )["patches"].values
        for name, column in plain.items():
            torch.testing.assert_close(scaled[name], column, atol=1e-5, rtol=1e-4)

    def none(images, index):
        return {"patches": torch.where((index == 1)[:, None, None], torch.nan, patches(images))}

    for metric in METRICS:
        for column in over_alterations(metric, pictures, maps, none)["patches"].values.values():
            assert column.isnan().tolist() == [False, True, False]


def test_what_cannot_be_altered_is_refused():
    for metric, words in (
        (Equivariance(patches=4), "leaves nothing to compare"),
        (NoiseStability(samples=0), "give 1 or more"),
        (SensitivityMax(samples=0), "give 1 or more"),
    ):
        with pytest.raises(vitscope.MetricError, match=words):
            metric.alterations(given())
