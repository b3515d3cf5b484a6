"""The perturbation methods against loops in float64 that run the model a picture at a time, written from the papers."""

from __future__ import annotations

import importlib
import itertools
import math

import numpy as np
import pytest
import torch

import vitscope
from tests.conftest import build, perturbed, pictures
from vitscope.methods import as_method, as_methods, list_methods, with_budget
from vitscope.models import anatomy_of
from vitscope.targets import Contrast

CLASSES = [4, 1]
LAYOUTS = ["vit", "non_square", "distilled", "dinov2_registers", "mean", "mean_no_class_token"]
PERTURBING = [facts.name for facts in list_methods() if facts.family == "perturbation"]


def check(found, wanted, bound=1e-5):
    wanted = torch.as_tensor(wanted, dtype=torch.float64).view_as(found)
    assert float((found - wanted).norm() / wanted.norm()) < bound


@torch.no_grad()
def logit(model, image, target):
    return float(model(image[None])[0, target])


@torch.no_grad()
def chance(model, image, target):
    exponentials = model(image[None])[0].exp()
    return float(exponentials[target] / exponentials.sum())


@torch.no_grad()
def of_tokens(model, image, kept):
    """The output with the other patch tokens really removed, behind the positional encoding."""
    rows = [*range(model.num_prefix_tokens), *(model.num_prefix_tokens + int(index) for index in kept)]
    handle = model.patch_drop.register_forward_hook(lambda _, __, tokens: tokens[:, rows])
    try:
        return model(image[None])[0]
    finally:
        handle.remove()


def softmax_of(output, target):
    return float(output.exp()[target] / output.exp().sum())


def bilinear(grid, height, width, corners=False):
    """(rows cols) -> (height width), along one axis after the other."""
    grid = grid.double()
    return along_an_axis(grid.shape[0], height, corners) @ grid @ along_an_axis(grid.shape[1], width, corners).T


def along_an_axis(cells, pixels, corners):
    """(pixels cells), each pixel's share of the two cells next to it."""
    shares = torch.zeros(pixels, cells, dtype=torch.float64)
    for pixel in range(pixels):
        at = pixel * (cells - 1) / (pixels - 1) if corners else max((pixel + 0.5) * cells / pixels - 0.5, 0)
        first = min(int(at), cells - 1)
        second = min(first + 1, cells - 1)
        shares[pixel, first] += 1 - (at - first)
        shares[pixel, second] += at - first
    return shares


def from_0_to_1(values):
    return (values - values.min()) / (values.max() - values.min())


def last_norm(model, image):
    """(D rows cols), what the last block's LN1 gives for the patches."""
    kept = []
    handle = model.blocks[-1].norm1.register_forward_hook(lambda _, __, output: kept.append(output[0].detach()))
    logit(model, image, 0)
    handle.remove()
    rows, cols = image.shape[1] // 8, image.shape[2] // 8
    return kept[0][model.num_prefix_tokens :].T.reshape(-1, rows, cols)


def one(explainer, images, label, target=CLASSES):
    return explainer(images, label, target)[label].values


@pytest.fixture(params=LAYOUTS)
def model(request):
    return build(request.param, seed=int(np.random.default_rng().integers(100)), dtype=torch.float64)


def drawn(model, count=2):
    return pictures(model, count, seed=int(np.random.default_rng().integers(1000)), dtype=torch.float64)


def test_token_ablation(model):
    images = drawn(model)
    found = one(vitscope.Explainer(model), images, "token_ablation")
    patches = found[0].numel()
    wanted = [
        [
            logit(model, image, target)
            - float(of_tokens(model, image, [other for other in range(patches) if other != patch])[target])
            for patch in range(patches)
        ]
        for image, target in zip(images, CLASSES, strict=True)
    ]
    check(found, wanted)


def test_token_ablation_of_squares():
    """5 squares or fewer of a grid of 4 x 6: 3 x 3 patches each, the lower ones cut off."""
    model = build("non_square", dtype=torch.float64)
    images = drawn(model, 1)
    found = one(vitscope.Explainer(model), images, "token_ablation:max_forwards=5", 2)[0]
    for rows, cols in itertools.product((range(3), range(3, 4)), (range(3), range(3, 6))):
        square = [row * 6 + col for row in rows for col in cols]
        output = of_tokens(model, images[0], [patch for patch in range(24) if patch not in square])
        drop = (logit(model, images[0], 2) - float(output[2])) / len(square)
        for row, col in itertools.product(rows, cols):
            assert math.isclose(float(found[row, col]), drop, rel_tol=1e-5)


def test_rise(model):
    images = drawn(model)
    height, width = images.shape[2:]
    masks, cells, keep, seed = 9, 3, 0.4, 5
    label = f"rise:masks={masks},cells={cells},keep={keep},seed={seed}"
    found = one(vitscope.Explainer(model), images, label)
    down, right = math.ceil(height / cells), math.ceil(width / cells)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(2, height // 8, width // 8, dtype=torch.float64)
    for _ in range(masks):
        shift_y, shift_x, *numbers = torch.rand(2 + cells * cells, generator=generator).tolist()
        grid = torch.tensor([float(number < torch.tensor(keep)) for number in numbers]).view(cells, cells)
        whole = bilinear(grid, (cells + 1) * down, (cells + 1) * right)
        y, x = int(shift_y * down), int(shift_x * right)
        mask = whole[y : y + height, x : x + width]
        for index, (image, target) in enumerate(zip(images, CLASSES, strict=True)):
            score = chance(model, image * mask, target)
            for row, col in itertools.product(range(height // 8), range(width // 8)):
                patch = mask[row * 8 : row * 8 + 8, col * 8 : col * 8 + 8]
                total[index, row, col] += score * patch.mean() / (keep * masks)
    check(found, total)


def test_scorecam(model):
    images = drawn(model)
    ex = vitscope.Explainer(model)(images, "scorecam,scorecam:max_forwards=7", CLASSES, strict=False)
    for label, most in (("scorecam", 24), ("scorecam:max_forwards=7", 7)):
        maps = []
        for image, target in zip(images, CLASSES, strict=True):
            channels = last_norm(model, image)
            spread = [float(channel.flatten().var()) for channel in channels]
            chosen = sorted(sorted(range(24), key=lambda channel, by=spread: -by[channel])[:most])
            scores = torch.tensor(
                [
                    logit(model, image * from_0_to_1(bilinear(channels[c], *image.shape[1:], corners=True)), target)
                    for c in chosen
                ]
            )
            weights = (scores - scores.max()).exp() / (scores - scores.max()).exp().sum()
            maps.append(sum(w * channels[c] for w, c in zip(weights, chosen, strict=True)).clamp(min=0))
        if label in ex:
            check(ex[label].values, torch.stack(maps))
        else:
            assert any(float(each.max()) == 0 for each in maps)


def lloyd(points, count, rounds, seed):
    """k-means from random points, in loops."""
    centres = points[np.random.default_rng(seed).choice(len(points), count, replace=False)].copy()
    for _ in range(rounds):
        nearest = [int(((centres - point) ** 2).sum(axis=1).argmin()) for point in points]
        for index in range(count):
            members = [point for point, which in zip(points, nearest, strict=True) if which == index]
            if members:
                centres[index] = np.mean(members, axis=0)
    return centres


def activations(model, image):
    """Every channel behind every block, a vector over the patches: (blocks D, P)."""
    kept = []
    handles = [block.register_forward_hook(lambda _, __, out: kept.append(out[0].detach())) for block in model.blocks]
    logit(model, image, 0)
    for handle in handles:
        handle.remove()
    return torch.cat([tokens[model.num_prefix_tokens :] for tokens in kept], dim=1).T.float().double().numpy()


def test_tis(model):
    images = drawn(model)
    found = one(vitscope.Explainer(model), images, "tis:masks=6,keep=0.4,rounds=4,seed=2")
    maps = []
    for image, target in zip(images, CLASSES, strict=True):
        points = activations(model, image)
        score_sum, count = np.zeros(points.shape[1]), np.zeros(points.shape[1])
        for centre in lloyd(points, 6, 4, 2):
            kept = np.argsort(-centre)[: int(0.4 * len(centre))]
            score = softmax_of(of_tokens(model, image, sorted(kept)), target)
            score_sum[kept] += score
            count[kept] += 1
        maps.append(np.where(count > 0, score_sum / np.maximum(count, 1), 0))
    check(found, np.stack(maps))


@pytest.mark.parametrize("whose", ["transformers", "open_clip"])
def test_the_tokens_behind_the_last_block_of_a_tower_that_norms_its_pooled_token(whose):
    """No module stands behind the last block there that is given all of its tokens."""
    package = pytest.importorskip(whose)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if whose == "transformers":
            shape = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
            config = package.CLIPVisionConfig(**shape, image_size=32, patch_size=8, projection_dim=16)
            model = package.CLIPVisionModelWithProjection(config)
        else:
            kind = importlib.import_module("open_clip.transformer").VisionTransformer
            shape = {"width": 24, "layers": 3, "heads": 2, "mlp_ratio": 2, "output_dim": 16}
            model = kind(image_size=32, patch_size=8, **shape, final_ln_after_pool=True)
    model = perturbed(model, torch.Generator().manual_seed(5), by=0.1)
    anatomy = anatomy_of(model)
    assert anatomy.final_site is None
    images, kept = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(4)), []
    handles = [block.module.register_forward_hook(lambda _, __, out: kept.append(out)) for block in anatomy.blocks]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    wanted = torch.stack([out[0] if isinstance(out, tuple) else out for out in kept], dim=1)[:, :, 1:]
    needs = as_method("tis").needs
    found = vitscope.trace.record(anatomy, images, needs, [vitscope.targets.Output(0)]).pictures().tokens()
    assert found.shape == (2, 3, 16, 24)
    assert torch.allclose(found, wanted, atol=1e-5)


def complete_linkage(masks, stop):
    """Clusters of masks, merged while the greatest cosine distance within the merged one is at most `stop`."""

    def apart(one, other):
        return max(
            1 - float((masks[a] * masks[b]).sum() / (masks[a].norm() * masks[b].norm())) for a in one for b in other
        )

    clusters = [[index] for index in range(len(masks))]
    while len(clusters) > 1:
        distance, first, second = min(
            (apart(clusters[i], clusters[j]), i, j) for i in range(len(clusters)) for j in range(i)
        )
        if not stop(distance, len(clusters)):
            break
        clusters[second] += clusters.pop(first)
    return clusters


@pytest.mark.parametrize("budget", [None, 9])
@pytest.mark.parametrize("layout", ["vit", "mean_no_class_token"])
def test_vit_cx(layout, budget):
    """One after the other in whatever order: noise is off, for its draws are numbered as the clusters are."""
    model = build(layout, seed=int(np.random.default_rng().integers(100)), dtype=torch.float64)
    images = drawn(model, 1)
    label = "vit_cx:distance=0.15,noise=0.0" + ("" if budget is None else f",max_forwards={budget}")
    found = one(vitscope.Explainer(model), images, label, 3)[0].double()
    image = images[0]
    masks = [from_0_to_1(channel) for channel in last_norm(model, image)]
    clusters = complete_linkage(
        masks, lambda distance, count: distance <= 0.15 or (budget is not None and count > budget // 2)
    )
    assert 1 < len(clusters) < 24
    over, under = torch.zeros_like(found), torch.zeros_like(found)
    for cluster in clusters:
        mask = from_0_to_1(sum(masks[index] for index in cluster))
        score = chance(model, image * bilinear(mask.float().double(), *image.shape[1:]), 3)
        over += score * mask
        under += mask
    check(found, torch.where(under > 0, over / under.clamp_min(1e-12), torch.zeros_like(over)))


def test_vit_cx_adds_noise_where_the_mask_is_not():
    """All channels merged to one mask M, of which x M + Z and x + Z are made; one mask alone tells nothing apart."""
    model = build(dtype=torch.float64)
    image = drawn(model, 1)[0]
    seen = []
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    explainer = vitscope.Explainer(model)
    seen.clear()
    with pytest.raises(vitscope.FlatMapError, match="altered pictures score alike"):
        explainer(image, "vit_cx:distance=2.0,noise=0.5", 3)
    handle.remove()
    whole, altered = seen
    assert len(whole) == 1
    assert len(altered) == 2
    channels = last_norm(model, image)
    mask = from_0_to_1(sum(from_0_to_1(channel) for channel in channels))
    on_pixels = bilinear(mask.float().double(), *image.shape[1:])
    masked_noise, noise = altered[0] - image * on_pixels, altered[1] - image
    torch.testing.assert_close(masked_noise, noise, rtol=0, atol=1e-6)
    draws = noise / (1 - on_pixels)
    visible = (1 - on_pixels).expand(3, -1, -1) > 0.05
    assert abs(float(draws[visible].std()) - 0.5) < 0.05
    assert abs(float(draws[visible].mean())) < 0.05


def test_vit_cx_takes_the_noise_out_again():
    model = build(dtype=torch.float64)
    images = drawn(model, 1)
    seen = []
    handle = model.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output.detach())))
    explainer = vitscope.Explainer(model)
    seen.clear()
    label = "vit_cx:distance=0.3,noise=0.4"
    found = one(explainer, images, label, 3)[0].double()
    handle.remove()
    scores = torch.cat([output for _, output in seen[1:]]).softmax(dim=1)[:, 3]
    causal = scores[0::2] - scores[1::2] + chance(model, images[0], 3)
    channels = last_norm(model, images[0])
    masks = [from_0_to_1(channel) for channel in channels]
    clusters = complete_linkage(masks, lambda distance, _: distance <= 0.3)
    assert len(clusters) == len(causal) > 1
    merged = {tuple(sorted(cluster)): from_0_to_1(sum(masks[index] for index in cluster)) for cluster in clusters}
    inputs = torch.cat([given for given, _ in seen[1:]])
    over, under = torch.zeros_like(found), torch.zeros_like(found)
    for which, score in enumerate(causal):
        # Which mask it was: the one outside of which the noise was added.
        noise = (inputs[2 * which + 1] - images[0]).abs().sum(dim=0)
        fits = [
            float(torch.corrcoef(torch.stack([noise.flatten(), (1 - bilinear(mask, *noise.shape)).flatten()]))[0, 1])
            for mask in merged.values()
        ]
        mask = list(merged.values())[int(np.argmax(fits))]
        over += (score - min(float(causal.min()), 0)) * mask
        under += mask
    check(found, over / under, 1e-4)


@pytest.mark.parametrize("name", ["rise:masks=12", "tis:masks=6", "vit_cx:noise=0.0"])
def test_a_target_that_is_no_class_takes_part_by_its_value_above_the_lowest(name):
    model = build(dtype=torch.float64)
    images = drawn(model, 2)
    explainer = vitscope.Explainer(model)
    found = one(explainer, images, name, Contrast(4, 2))
    shifted = one(explainer, images, name, lambda output: output[:, 4] - output[:, 2] + 100)
    assert found.min() >= 0
    check(found, shifted, 1e-4)


@pytest.mark.parametrize("name", PERTURBING)
@pytest.mark.parametrize("budget", [4, 7])
def test_the_budget_is_kept(name, budget):
    model = build()
    images = pictures(model, 3)
    counted, told = [], []
    handle = model.register_forward_pre_hook(lambda _, inputs: counted.append(len(inputs[0])))
    explainer = vitscope.Explainer(model)
    counted.clear()
    found = explainer(
        images, [name, "cdam"], 2, strict=False, max_forwards=budget, progress=lambda *of: told.append(of)
    )
    handle.remove()
    alone = 3  # the pass that all methods share
    assert 3 < sum(counted) - alone <= 3 * budget
    assert sum(counted) - alone == told[-1][1] == told[-1][2]
    assert list(found) == [name, "cdam"] or "score alike, or none" in found.failures[name]
    if name in found:
        assert found[name].options["max_forwards"] == budget


def test_a_budget_of_its_own_goes_before_that_of_the_call():
    methods = with_budget(as_methods("rise,rise:max_forwards=5,cdam,smooth_cdam"), 9)
    assert [getattr(method, "max_forwards", None) for method in methods.values()] == [9, 5, None, None]
    assert with_budget(methods, None) == methods


@pytest.mark.parametrize("name", PERTURBING)
def test_without_a_budget_the_number_of_forwards_is_known(name):
    model = build()
    counted, options = [], {"rise": "rise:masks=30", "tis": "tis:masks=11"}
    handle = model.register_forward_pre_hook(lambda _, inputs: counted.append(len(inputs[0])))
    explainer = vitscope.Explainer(model)
    counted.clear()
    explainer(pictures(model, 1), options.get(name, name), 2, strict=False)
    handle.remove()
    expected = {"rise": 30, "tis": 12, "token_ablation": 16, "scorecam": 24}
    assert sum(counted) - 1 == expected.get(name, sum(counted) - 1)
    assert sum(counted) - 1 <= 48  # vit_cx: two a mask, at most one a channel


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("rise:masks=0", "give at least 1"),
        ("rise:cells=1", "at least 2 cells"),
        ("tis:max_forwards=1", "at least 2"),
        ("tis:keep=1.0", "0 < keep < 1"),
        ("vit_cx:max_forwards=1", "at least 2"),
        ("vit_cx:noise=-1", "0 or more"),
        ("token_ablation:max_forwards=3", "at least 4"),
        ("scorecam:max_forwards=0", "at least 1"),
    ],
)
def test_wrong_options_are_one_clear_line(label, says):
    with pytest.raises(vitscope.MethodError, match=says):
        as_method(label)
