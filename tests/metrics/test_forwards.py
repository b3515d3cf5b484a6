"""Perturbation metrics: every one against the literal loop, one picture and one step at a time, in float64."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.ndimage import gaussian_filter

import vitscope
from tests.conftest import build, pictures
from vitscope.metrics import (
    ABPC,
    MIFLIF,
    SRG,
    AverageDrop,
    BoxSensitivity,
    CheferPerturbation,
    Forwards,
    GridMaps,
    Infidelity,
    InsertionDeletion,
    ModelScorer,
    Pictures,
    evaluate,
)
from vitscope.metrics.perturb import blurred, counts, ranks, replacement
from vitscope.metrics.squares import squares_of, sums_inside

MEAN, STD = (0.4, 0.5, 0.45), (0.2, 0.25, 0.3)
METRICS = [
    ABPC(),
    ABPC(steps=4, area="trapezoid"),
    CheferPerturbation(),
    CheferPerturbation("label", "trapezoid"),
    SRG(),
    SRG(steps=7, fill="mean"),
    MIFLIF(steps=5),
    MIFLIF("zero", steps=3),
    InsertionDeletion(steps=6),
    AverageDrop(),
    AverageDrop("normalised"),
    BoxSensitivity(squares=8),
    Infidelity(squares=6),
    Infidelity(squares=6, scaled=False),
]


class World:
    """A random model, pictures, and maps of two methods."""

    def __init__(self, count=3, dtype=torch.float64):
        seed = int(torch.randint(2**31, ()))
        self.model = build("non_square", seed=seed, dtype=dtype)
        tensor = pictures(self.model, count, seed=seed + 1, dtype=dtype)
        generator = torch.Generator().manual_seed(seed + 2)
        explained, labels = (torch.randint(7, (count,), generator=generator) for _ in range(2))
        keys = tuple(torch.randint(10**9, (count,), generator=generator).tolist())
        self.pictures = Pictures(tensor, (8, 8), MEAN, STD, explained, labels, keys)
        self.maps = [GridMaps(torch.randn(count, 4, 6, generator=generator), (32, 48)) for _ in range(2)]

    def one(self, index):
        part = slice(index, index + 1)
        p = self.pictures
        alone = Pictures(p.tensor[part], p.patch, MEAN, STD, p.explained[part], p.labels[part], p.keys[part])
        return alone, [GridMaps(maps.values[part], maps.size) for maps in self.maps]

    def output(self, picture):
        with torch.no_grad():
            return self.model(picture[None])[0].double()

    def probability(self, picture, label):
        return float(self.output(picture).softmax(0)[label])


def order_by_hand(values, most):
    """Pixel numbers, most or least relevant first, equal ones in reading order."""
    flat = values.flatten().tolist()
    return sorted(range(len(flat)), key=lambda i: (-flat[i] if most else flat[i], i))


def replaced(picture, other, chosen):
    """The picture with some pixels (numbers) taken from the other."""
    made = picture.clone().flatten(1)
    made[:, chosen] = other.flatten(1)[:, chosen]
    return made.view_as(picture)


def trapezoids(ys, xs):
    return sum((a + b) / 2 * (q - p) for a, b, p, q in zip(ys, ys[1:], xs, xs[1:], strict=False))


def by_hand(metric, world, which, index):
    """What the metric gives for one method and picture, straight from its definition."""
    x = world.pictures.tensor[index]
    target, label = int(world.pictures.explained[index]), int(world.pictures.labels[index])
    pixels, nearest = (getattr(world.maps[which], mode)[index] for mode in ("bilinear", "nearest"))
    mean, std = (torch.tensor(part, dtype=x.dtype)[:, None, None] for part in (MEAN, STD))
    black, zero = (-mean / std).expand_as(x), torch.zeros_like(x)
    count = pixels.numel()

    def blur(sigma):
        return torch.tensor(np.stack([gaussian_filter(channel, sigma, mode="nearest") for channel in x.numpy()]))

    def curve(order, into, outof, shares, read):
        return [read(replaced(outof, into, order[: math.floor(round(s * count, 6))])) for s in shares]

    def logit_of(picture):
        return float(world.output(picture)[target])

    if isinstance(metric, ABPC):
        shares = [k / metric.steps for k in range(metric.steps + 1)]
        curves = [
            curve(order_by_hand(pixels, most), zero, x, shares, lambda p: world.probability(p, label))
            for most in (True, False)
        ]
        area = np.mean if metric.area == "mean" else lambda ys: trapezoids(ys, shares)
        return {"morf": area(curves[0]), "lerf": area(curves[1]), "abpc": area(curves[1]) - area(curves[0])}
    if isinstance(metric, CheferPerturbation):
        shares = [k / 10 for k in range(1, 10)]

        def hits(most):
            return curve(
                order_by_hand(pixels, most), black, x, shares, lambda p: float(world.output(p).argmax() == label)
            )

        area = np.mean if metric.area == "mean" else lambda ys: trapezoids(ys, shares) / 0.8
        return {"positive": area(hits(True)), "negative": area(hits(False))}
    if isinstance(metric, SRG):
        fill = zero if metric.fill == "zero" else x.mean(dim=(1, 2), keepdim=True).expand_as(x)
        shares, areas = [k / metric.steps for k in range(metric.steps + 1)], []
        for most in (True, False):
            order = order_by_hand(world.maps[which].values[index], most)
            ys = []
            for share in shares:
                picture = x.clone()
                for patch in order[: math.floor(round(share * 24, 6))]:
                    row, col = divmod(patch, 6)
                    at = (slice(None), slice(8 * row, 8 * row + 8), slice(8 * col, 8 * col + 8))
                    picture[at] = fill[at]
                ys.append(logit_of(picture))
            areas.append(trapezoids(ys, shares))
        return {"morf": areas[0], "lerf": areas[1], "srg": areas[1] - areas[0]}
    if isinstance(metric, MIFLIF):
        into = zero if metric.fill == "zero" else blur(14)
        shares = [k / metric.steps for k in range(metric.steps + 1)]
        mif, lif = (
            trapezoids(curve(order_by_hand(nearest, most), into, x, shares, logit_of), shares) for most in (True, False)
        )
        return {"mif": mif, "lif": lif, "area": lif - mif}
    if isinstance(metric, InsertionDeletion):
        shares = [k / metric.steps for k in range(metric.steps + 1)]
        order = order_by_hand(pixels, True)
        areas = [
            trapezoids(curve(order, into, outof, shares, lambda p: world.probability(p, target)), shares)
            for into, outof in ((x, rise_blur(x[None])[0]), (zero, x))
        ]
        return {"insertion": areas[0], "deletion": areas[1]}
    if isinstance(metric, AverageDrop):
        dimmer = ((pixels - pixels.min()) / (pixels.max() - pixels.min())).double()
        dimmed = ((x * std + mean) * dimmer - mean) / std if metric.space == "raw" else x * dimmer
        y, o = world.probability(x, target), world.probability(dimmed, target)
        return {"average_drop": max(0.0, y - o) / y, "increase": float(o > y)}
    places = squares_of(world.pictures, metric.squares, 0.1, 0.5, 0)[index].tolist()
    into = blur(14) if metric.fill == "blur" else zero
    inside, drops = [], []
    for top, left, side in places:
        picture = x.clone()
        at = (slice(None), slice(top, top + side), slice(left, left + side))
        picture[at] = into[at]
        drops.append(logit_of(x) - logit_of(picture))
        weight = nearest.double() if isinstance(metric, BoxSensitivity) else (x - picture).sum(0) * nearest
        inside.append(float(weight[at[1:]].sum()))
    if isinstance(metric, BoxSensitivity):
        return {"pearson": scipy.stats.pearsonr(inside, drops).statistic}
    inside, drops = np.array(inside), np.array(drops)
    beta = (inside * drops).mean() / (inside**2).mean() if metric.scaled else 1
    return {"infidelity": ((beta * inside - drops) ** 2).mean()}


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_batched_is_the_literal_loop(metric):
    world = World()
    forwards = Forwards(ModelScorer(world.model), world.pictures, at_once=7)
    results = evaluate([(metric, maps) for maps in world.maps], forwards)
    for which, result in enumerate(results):
        for index in range(len(world.pictures)):
            expected = by_hand(metric, world, which, index)
            found = {name: column[index].item() for name, column in result.values.items()}
            assert found == pytest.approx(expected, abs=1e-5, rel=1e-6)


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_a_picture_is_worth_the_same_in_any_batch(metric):
    world = World()
    together = evaluate([(metric, world.maps[0])], Forwards(ModelScorer(world.model), world.pictures))[0]
    for index in range(3):
        alone, maps = world.one(index)
        (result,) = evaluate([(metric, maps[0])], Forwards(ModelScorer(world.model), alone, at_once=1))
        for name, column in result.values.items():
            assert column.item() == pytest.approx(together.values[name][index].item(), abs=1e-9)


def test_what_methods_share_is_run_once():
    world = World()
    calls = []

    def scorer(altered, index):
        calls.append(len(altered))
        return ModelScorer(world.model)(altered, index)

    forwards = Forwards(scorer, world.pictures, at_once=10)
    evaluate([(ABPC(), maps) for maps in world.maps], forwards)
    # Of 22 steps, 18 are a method's own; the untouched and the wholly zeroed picture are run once for both.
    assert forwards.count == sum(calls) == 3 * (2 * 18 + 2)
    assert max(calls) == 10
    evaluate([(BoxSensitivity("zero", squares=9), maps) for maps in world.maps], forwards)
    assert forwards.count == 3 * (2 * 18 + 2 + 9)
    evaluate([(Infidelity(squares=9), maps) for maps in world.maps], forwards)
    assert forwards.count == 3 * (2 * 18 + 2 + 9)  # the same squares, filled alike
    with torch.no_grad():
        known = Forwards(scorer, world.pictures, unaltered=world.model(world.pictures.tensor))
    evaluate([(AverageDrop(), world.maps[0])], known)
    assert known.count == 3


def test_the_model_is_left_as_found_and_half_precision_runs():
    world = World()
    world.model.train()
    (found,) = evaluate([(SRG(steps=4), world.maps[0])], Forwards(ModelScorer(world.model), world.pictures))
    assert world.model.training
    assert all(p.grad is None for p in world.model.parameters())
    half = ModelScorer(world.model.float().bfloat16())
    (rough,) = evaluate([(SRG(steps=4), world.maps[0])], Forwards(half, world.pictures))
    assert rough.values["srg"].isfinite().all()
    assert not torch.equal(rough.values["srg"], found.values["srg"])


def test_a_constant_map_gains_nothing_and_the_inverse_loses_what_the_map_gains():
    world = World()
    order = torch.stack([torch.randperm(32 * 48) for _ in range(3)]).view(3, 32, 48).double()  # no two values alike
    flat = torch.full((3, 4, 6), 0.3)
    forwards = Forwards(ModelScorer(world.model), world.pictures)
    for metric, name in ((ABPC(), "abpc"), (SRG(steps=16), "srg"), (MIFLIF(steps=4), "area")):
        maps = [(metric, GridMaps(values, (32, 48))) for values in (order, -order, order * 2 + 8, flat)]
        one, inverse, moved, none = (result.values[name] for result in evaluate(maps, forwards))
        torch.testing.assert_close(none, torch.zeros_like(none), rtol=0, atol=1e-12)  # sums that are rounded in float64
        torch.testing.assert_close(one, -inverse)
        torch.testing.assert_close(one, moved)
        assert (one.abs() > 1e-6).all()


def test_the_perfect_map_of_a_linear_model_is_best():
    """Of f(x) = <w, x> the map w x is exact: no other gains more, and its infidelity is 0."""
    count, size = 4, (12, 12)
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    x, w = (torch.randn(count, 3, *size, generator=generator, dtype=torch.float64) for _ in range(2))
    w = w[:1].expand(count, -1, -1, -1)
    given = Pictures(x, (1, 1), MEAN, STD, torch.zeros(count, dtype=torch.long), keys=(5, 6, 7, 8))

    def scorer(altered, index):
        return torch.stack([(altered * w[index]).sum(dim=(1, 2, 3)), altered.new_zeros(len(altered))], dim=1)

    exact = GridMaps((w * x).sum(dim=1), size)
    others = [GridMaps(torch.randn(count, *size, generator=generator), size), GridMaps(-exact.values, size)]
    forwards = Forwards(scorer, given)
    for metric, name in ((SRG(steps=20), "srg"), (MIFLIF("zero", steps=9), "area")):
        best, random, worst = (r.values[name] for r in evaluate([(metric, m) for m in (exact, *others)], forwards))
        assert (best > random).all()
        assert (random > worst).all()
    (drawn,) = evaluate([(BoxSensitivity("zero", squares=20), exact)], forwards)
    torch.testing.assert_close(drawn.values["pearson"], torch.ones(count, dtype=torch.float64), atol=1e-5, rtol=0)
    # <I, map> of infidelity takes the gradient w, summed over channels of equal weight.
    grey = w.mean(dim=1, keepdim=True).expand_as(x)

    def grey_scorer(altered, index):
        return (altered * grey[index]).sum(dim=(1, 2, 3))[:, None]

    for scaled, map_of in ((False, grey[:, 0]), (True, 9 * grey[:, 0])):
        metric = Infidelity(squares=10, scaled=scaled)
        (found,) = evaluate([(metric, GridMaps(map_of, size))], Forwards(grey_scorer, given))
        assert (found.values["infidelity"] < 1e-6).all()


@pytest.mark.parametrize("sigma", [14.0, 5.0, 0.7])
def test_blur_is_scipys_gaussian_with_the_edge_repeated(sigma):
    images = torch.randn(2, 3, 21, 34, dtype=torch.float64)
    blur = partial(gaussian_filter, sigma=sigma, mode="nearest", radius=round(4 * sigma))
    expected = np.stack([[blur(channel) for channel in image] for image in images.numpy()])
    np.testing.assert_allclose(blurred(images, sigma), expected, atol=1e-12)


@pytest.mark.parametrize("side", [34, 7])  # wider than the window, and narrower
def test_rises_blur_is_a_convolution_with_its_kernel(side):
    images = torch.randn(2, 3, 21, side, dtype=torch.float64)
    np.testing.assert_allclose(blurred(images, 5.0, "padded"), rise_blur(images), atol=1e-12)


def rise_blur(images):
    """By the official kernel, literally: a single one, 11 x 11, under a Gaussian, as the weights of a padded layer."""
    one = np.zeros((11, 11))
    one[5, 5] = 1
    kernel = torch.from_numpy(gaussian_filter(one, 5)).to(images).expand(3, 1, 11, 11)
    return torch.nn.functional.conv2d(images, kernel, padding=5, groups=3)


def test_ranks_counts_and_sums():
    values = torch.tensor([[[2.0, 5.0], [2.0, 1.0]]])
    assert ranks(values, "most").tolist() == [[[1, 0], [2, 3]]]
    assert ranks(values, "least").tolist() == [[[1, 3], [2, 0]]]
    assert counts([k / 10 for k in range(11)], 10) == list(range(11))
    assert counts([0.29, 0.57, 0.58], 100) == [29, 57, 58]  # 0.29 * 100 is 28.999999999999996
    assert counts([0.1, 0.29, 1.0], 50176) == [5017, 14551, 50176]
    maps, places = torch.randn(2, 9, 7, dtype=torch.float64), torch.tensor([[[0, 0, 7], [3, 2, 4]]] * 2)
    expected = [
        [m[t : t + s, f : f + s].sum().item() for t, f, s in p.tolist()] for m, p in zip(maps, places, strict=True)
    ]
    np.testing.assert_allclose(sums_inside(maps, places), expected, atol=1e-12)


def test_squares_lie_inside_and_depend_on_key_and_seed_alone():
    world = World()
    p = world.pictures
    places = squares_of(p, 300, 0.1, 0.5, 3)
    top, left, side = places.unbind(dim=2)
    assert int(side.min()) >= 3
    assert int(side.max()) <= 16
    assert int((top + side).max()) <= 32
    assert int((left + side).max()) <= 48
    assert int(top.min()) == int(left.min()) == 0
    turned = Pictures(p.tensor.flip(0), p.patch, MEAN, STD, p.explained, p.labels, p.keys[::-1])
    assert torch.equal(squares_of(turned, 300, 0.1, 0.5, 3), places.flip(0))
    assert not torch.equal(squares_of(p, 300, 0.1, 0.5, 4), places)


def test_what_cannot_be_run_is_refused():
    world = World()
    bare = Pictures(world.pictures.tensor, (8, 8), MEAN, STD, world.pictures.explained)
    forwards = Forwards(ModelScorer(world.model), bare)
    for metric, words in ((ABPC(), "true class"), (BoxSensitivity(), "key a picture")):
        with pytest.raises(vitscope.MetricError, match=words):
            evaluate([(metric, world.maps[0])], forwards)
    with pytest.raises(vitscope.MetricError, match="nothing fills pixels with 'red'; use zero"):
        replacement(bare, "red")
    with pytest.raises(vitscope.MetricError, match="give outputs"):
        evaluate([(SRG(steps=2), world.maps[0])], Forwards(lambda x, i: torch.zeros(3), bare))
    with pytest.raises(vitscope.MetricError, match="give 1 or more"):
        Forwards(ModelScorer(world.model), bare, at_once=0)
    with pytest.raises(vitscope.MetricError, match="do not go with their explained"):
        Pictures(world.pictures.tensor, (8, 8), MEAN, STD, torch.zeros(2))
    for bad in (lambda: ABPC(steps=0), lambda: BoxSensitivity(squares=1), lambda: Infidelity(largest=2)):
        with pytest.raises(vitscope.MetricError, match="give"):
            bad()
