"""Images that are flipped, turned, cropped, padded or resized within a model: maps lie on what the model is given."""

from __future__ import annotations

import random

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision.transforms.v2 import functional as transforms

import vitscope
from tests.conftest import TINY, perturbed
from tests.models.test_adapt import PREPARED, layout
from vitscope.images import Geometry, Placement
from vitscope.methods.rise import _Masks
from vitscope.models import anatomy_of

METHODS = ["daam", "agcam", "cdam", "hirescam", "attention", "input_x_gradient", "token_ablation", "rise:masks=40"]
BY_TOKENS = METHODS[:5]


class Through(nn.Module):
    """A model behind a function of its images."""

    def __init__(self, model, change):
        super().__init__()
        self.model, self.change = model, change

    def forward(self, x):
        return self.model(self.change(x))


class Opaque(torch.autograd.Function):
    """Rounded to whole pixels, with a gradient."""

    @staticmethod
    def forward(ctx, x):
        return (x * 8).round() / 8

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return perturbed(VisionTransformer(**TINY, init_values=0.1))


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def resized(x, size=32):
    return F.interpolate(x, size=size, mode="bilinear", antialias=True)


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def explained(model, images, methods, target=None, **fields):
    return vitscope.Explainer(model, preprocessing=PREPARED | fields)(images, methods, target)


TURNS = {
    "left to right": (lambda x: x.flip(-1), lambda m: m.flip(-1)),
    "top to bottom": (lambda x: x.flip(-2), lambda m: m.flip(-2)),
    "transposed": (lambda x: x.mT, lambda m: m.mT),
    "quarter turn": (lambda x: torch.rot90(x, 1, (-2, -1)), lambda m: torch.rot90(m, -1, (-2, -1))),
    "three quarters": (lambda x: torch.rot90(x, 3, (-2, -1)), lambda m: torch.rot90(m, -3, (-2, -1))),
    "half turn": (lambda x: x.flip(-1, -2), lambda m: m.flip(-1, -2)),
    "other diagonal": (lambda x: x.flip(-1, -2).mT, lambda m: m.mT.flip(-1, -2)),
    "rounded and flipped": (lambda x: Opaque.apply(x).flip(-1), lambda m: m.flip(-1)),
}


@pytest.mark.parametrize("name", TURNS)
def test_maps_are_turned_back(name, vit, images):
    there, back = TURNS[name]
    found = explained(Through(vit, there), images, METHODS)
    wanted = explained(vit, there(images), METHODS[:-1])
    assert torch.allclose(found.logits, wanted.logits, atol=1e-5)
    for label in METHODS[:-1]:
        if label == "input_x_gradient" and "rounded" in name:
            continue  # times the unrounded input
        assert relative(found[label].values, back(wanted[label].values)) < 1e-4, label
        for part in ("blocks", "heads"):
            if (of_inner := getattr(wanted[label], part)) is not None:
                assert relative(getattr(found[label], part), back(of_inner)) < 1e-4, (label, part)
        pixels = wanted[label].to_pixels()
        assert relative(found[label].to_pixels(), back(pixels)) < 1e-4, label


@pytest.mark.parametrize("name", TURNS)
def test_random_masks_lie_where_the_image_does(name, vit, images):
    """RISE sees the model from outside, so that what happens to the image within it takes no part."""
    model = Through(vit, TURNS[name][0])
    found = explained(model, images, "rise:masks=40")["rise:masks=40"].values
    masks = _Masks(40, 7, 0.5, 0, (32, 32)).some(0, 40)
    with torch.no_grad():
        predicted = model(images).argmax(dim=1)
        scores = [
            model(image * masks[:, None]).softmax(dim=1)[:, top] for image, top in zip(images, predicted, strict=True)
        ]
    wanted = torch.einsum("bk,khw->bhw", torch.stack(scores), F.avg_pool2d(masks, 8)) / (0.5 * 40)
    assert relative(found, wanted) < 1e-4


@pytest.mark.parametrize("method", ["scorecam:max_forwards=6", "vit_cx:max_forwards=12,noise=0"])
def test_masks_from_the_grid_are_laid_on_the_image_as_the_patches_lie(method, vit, images):
    for there, back in TURNS.values():
        if there is TURNS["rounded and flipped"][0]:
            continue
        found = explained(Through(vit, there), images, method)[method].values
        assert relative(found, back(explained(vit, there(images), method)[method].values)) < 1e-4


def test_evidence_is_turned_back(vit, images):
    there, back = TURNS["quarter turn"]
    found = vitscope.Explainer(Through(vit, there), preprocessing=PREPARED).evidence(images)
    wanted = vitscope.Explainer(vit, preprocessing=PREPARED).evidence(there(images))
    assert relative(found.all(), back(wanted.all())) < 1e-5
    assert relative(found.at(1, 0), wanted.at(*[int(i[0]) for i in _place(there, 1, 0)])) < 1e-5
    cdam = explained(Through(vit, there), images, "cdam", target=3)["cdam"]
    assert relative(found[3], cdam.values) < 1e-4
    assert relative(found.attribution(3).to_pixels(), cdam.to_pixels()) < 1e-4


def _place(there, row, col):
    mark = torch.zeros(1, 1, 4, 4)
    mark[..., row, col] = 1
    return there(mark)[0, 0].nonzero(as_tuple=True)


WINDOWS = {
    # what is done to images of a size, the size, and the window (top left height width) that the inner image shows
    "crop and zoom": (lambda x: resized(x[..., 4:20, 8:32]), 32, (4, 8, 16, 24)),
    "nearest zoom": (lambda x: F.interpolate(x[..., 8:24, 8:24], 32), 32, (8, 8, 16, 16)),
    "crop of a larger one": (lambda x: x[..., 4:36, 6:38], 40, (4, 6, 32, 32)),
    "centre crop": (lambda x: transforms.center_crop(x, [32, 32]), 48, (8, 8, 32, 32)),
    "smaller": (resized, 64, (0, 0, 64, 64)),
    "larger": (resized, 20, (0, 0, 20, 20)),
    "padded": (lambda x: F.pad(x, (4, 4, 8, 0)), 24, (-8, -4, 32, 32)),
    "mirrored at its edges": (lambda x: F.pad(x, (2, 2, 2, 2), mode="reflect"), 28, (-2, -2, 32, 32)),
    "shrunk into a frame": (lambda x: F.pad(resized(x, 16), (8, 8, 8, 8)), 32, (-16, -16, 64, 64)),
    "cropped and flipped": (lambda x: resized(x[..., :16, 8:24]).flip(-1), 32, (0, 8, 16, 16)),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_maps_of_a_part_of_the_image_lie_on_that_part(name, vit):
    change, size, window = WINDOWS[name]
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    found = explained(Through(vit, change), images, BY_TOKENS, size=size)
    wanted = explained(vit, change(images), BY_TOKENS)
    back = TURNS["left to right"][1] if "flipped" in name else lambda m: m
    for label in BY_TOKENS:
        assert relative(found[label].values, back(wanted[label].values)) < 1e-4
        crop = found.subject.geometries[0].crop
        assert crop == pytest.approx(window, abs=0.1)
        on_image = Geometry((size, size), (size, size), window)
        by_hand = torch.stack([on_image.to_original(back(one)) for one in wanted[label].values])
        pixels = found[label].to_pixels()
        assert torch.equal(pixels.isnan(), by_hand.isnan())
        assert relative(pixels.nan_to_num(), by_hand.nan_to_num()) < 0.02


@pytest.mark.parametrize("name", WINDOWS)
def test_gradients_at_pixels_are_summed_where_the_patches_lie(name, vit):
    change, size, (top, left, height, width) = WINDOWS[name]
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    model = Through(vit, change)
    found = explained(model, images, "input_x_gradient", size=size)["input_x_gradient"].values
    leaf = images.clone().requires_grad_()
    output = model(leaf)
    (gradient,) = torch.autograd.grad(output.amax(dim=1).sum(), leaf)
    product = (gradient * images).sum(dim=1)
    wanted = torch.zeros(2, 4, 4)
    for row in range(size):
        for col in range(size):
            cell = [int(4 * (row + 0.5 - top) // height), int(4 * (col + 0.5 - left) // width)]
            if all(0 <= place < 4 for place in cell):
                wanted[:, cell[0], cell[1]] += product[:, row, col]
    assert relative(found, wanted) < 1e-4


@pytest.mark.parametrize(
    "change",
    [
        lambda x: (x - 0.4) / 0.25,
        lambda x: (x.clamp(0, 1) * 255).round() / 255,
        lambda x: x.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1),
        lambda x: x[:, [2, 1, 0]],
        lambda x: x.abs() ** 2.2,
        lambda x: transforms.gaussian_blur(x, [3, 3], [1.0, 1.0]),
        lambda x: (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True),
        lambda x: (x - x.amin((1, 2, 3), True)) / (x.amax((1, 2, 3), True) - x.amin((1, 2, 3), True)),
        lambda x: x * (torch.linspace(-1, 1, 32)[:, None] ** 2 + torch.linspace(-1, 1, 32) ** 2 < 1),
        resized,
    ],
)
def test_what_keeps_every_pixel_in_its_place_changes_nothing(change, vit, images):
    anatomy = anatomy_of(Through(vit, change))
    assert anatomy.placement((32, 32)) == Placement.identity((32, 32))
    found, wanted = explained(Through(vit, change), images, "daam"), explained(vit, change(images), "daam")
    assert relative(found["daam"].values, wanted["daam"].values) < 1e-5


def mirrored(x):
    return torch.cat([x[..., :16], x[..., :16].flip(-1)], dim=-1)


def shuffled(x):
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    patches = x.unfold(2, 8, 8).unfold(3, 8, 8).flatten(2, 3)[:, :, order].unflatten(2, (4, 4))
    return patches.transpose(3, 4).flatten(4).flatten(2, 3)


def warped(x):
    grid = F.affine_grid(torch.eye(2, 3)[None].expand(len(x), -1, -1), x.shape, align_corners=False)
    return F.grid_sample(x, grid.sign() * grid.abs() ** 2, align_corners=False)


class Counted(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x.flip(-1) if self.calls % 3 == 0 else x


REFUSED = {
    "rotated": (lambda x: transforms.rotate(x, 30), "changes the image's geometry"),
    "sheared": (lambda x: transforms.affine(x, 0, [0, 0], 1.0, [25.0, 0.0]), "changes the image's geometry"),
    "warped": (warped, "changes the image's geometry"),
    "mirrored": (mirrored, "does not run along its own"),
    "rolled": (lambda x: x.roll(16, dims=-1), "does not run along its own"),
    "shuffled": (shuffled, "the image's geometry|does not run"),
    "flipped if bright": (
        lambda x: torch.where(x.mean((1, 2, 3), keepdim=True) > 0, x.flip(-1), x),
        "each image in its own way|does not run",
    ),
    "flipped by chance": (lambda x: x.flip(-1) if torch.rand(()) < 0.5 else x, "random|differently"),
    "hardly ever flipped": (lambda x: x.flip(-1) if torch.rand(()) < 1e-9 else x, "draws random numbers"),
    "hardly ever flipped by Python": (lambda x: x.flip(-1) if random.random() < 1e-9 else x, "draws random numbers"),
    "each by chance": (
        lambda x: torch.stack([one.flip(-1) if random.random() < 0.5 else one for one in x]),
        "random|differently",
    ),
    "every second one": (
        lambda x: torch.stack([one.flip(-1) if index % 2 else one for index, one in enumerate(x)]),
        "by its place in the batch",
    ),
    "every third call": (Counted(), "differently from call to call"),
    "nothing": (lambda x: 0 * x, "nothing of the image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_map_can_be_placed_behind_is_refused(name, vit):
    change, says = REFUSED[name]
    with pytest.raises(vitscope.ModelError, match=says) as caught:
        anatomy_of(Through(vit, change))
    assert "model, a timm VisionTransformer, is inside a Through" in str(caught.value)
    assert "preprocessing=" in str(caught.value)


def test_the_measurement_leaves_random_numbers_alone(vit):
    torch.manual_seed(5)
    random.seed(5)
    anatomy_of(Through(vit, lambda x: x.flip(-1)))
    drawn = torch.rand(3), random.random()
    torch.manual_seed(5)
    random.seed(5)
    assert torch.equal(drawn[0], torch.rand(3))
    assert drawn[1] == random.random()


def test_what_depends_on_the_size_is_measured_at_each_size(vit):
    """Wrapped twice, a centre crop of four fifths, given photographs of two sizes."""

    def change(x):
        return resized(transforms.center_crop(x, [side * 4 // 5 for side in x.shape[-2:]]))

    explainer = vitscope.Explainer(Through(Through(vit, nn.Identity()), change), preprocessing=PREPARED | {"size": 40})
    for size, window in ((40, (4, 4, 32, 32)), (60, (6, 6, 48, 48))):
        crop = explainer(torch.randn(1, 3, size, size), "daam").subject.geometries[0].crop
        assert crop == pytest.approx(window, abs=0.3)


@pytest.mark.parametrize("shape", [(32, 48), (48, 32)])
def test_a_turned_image_that_is_not_square(shape):
    torch.manual_seed(0)
    vit = perturbed(VisionTransformer(**TINY | {"img_size": shape}))
    images = torch.randn(2, 3, *shape[::-1])
    there, back = TURNS["quarter turn"]
    found = explained(Through(vit, there), images, ["cdam", "input_x_gradient"], size=shape[::-1])
    wanted = explained(vit, there(images), ["cdam", "input_x_gradient"], size=shape)
    for label in wanted:
        assert found[label].values.shape == (2, shape[1] // 8, shape[0] // 8)
        assert relative(found[label].values, back(wanted[label].values)) < 1e-4
    assert found.subject.provenance["grid"] == [shape[1] // 8, shape[0] // 8]


def test_an_original_of_another_size_through_the_preprocessing(vit):
    """A photograph that is cropped by the preprocessing, and then flipped and cropped within the model."""
    from PIL import Image

    photo = Image.new("RGB", (50, 40))
    change, _, (top, left, height, width) = WINDOWS["cropped and flipped"]
    explainer = vitscope.Explainer(
        Through(vit, change), preprocessing=PREPARED | {"crop_pct": 0.8, "interpolation": "bilinear"}
    )
    inner = vitscope.Explainer(vit, preprocessing=PREPARED)
    found = explainer([photo], "cdam")
    outer = found.subject.batch
    (at,) = outer.geometries
    assert found.subject.geometries[0].crop == (at.crop[0] + top, at.crop[1] + left, height, width)
    wanted = inner(change(outer.tensor), "cdam")["cdam"].values.flip(-1)
    assert relative(found["cdam"].values, wanted) < 1e-5


class Flipped(VisionTransformer):
    def forward(self, x):
        return super().forward(x.flip(-1))


class ColumnsFirst(nn.Module):
    """Its tokens run down the columns."""

    def __init__(self, vit):
        super().__init__()
        self.vit = vit

    def forward(self, x):
        tokens = self.vit.patch_embed.proj(x).mT.flatten(2).mT
        tokens = self.vit._pos_embed(tokens)
        for block in self.vit.blocks:
            tokens = block(tokens)
        return self.vit.forward_head(self.vit.norm(tokens))


def test_a_known_class_with_a_forward_of_its_own(vit, images):
    own = perturbed(Flipped(**TINY, init_values=0.1))
    own.load_state_dict(vit.state_dict())
    wanted = explained(vit, images.flip(-1), METHODS[:-1])
    for model in (own, nn.Sequential(own)):
        found = explained(model, images, METHODS[:-1])
        assert all(relative(found[label].values, wanted[label].values.flip(-1)) < 1e-4 for label in METHODS[:-1])


def test_a_hook_that_flips(vit, images):
    wanted = explained(vit, images.flip(-1), "daam")["daam"].values
    vit.register_forward_pre_hook(lambda _, inputs: (inputs[0].flip(-1),))
    assert relative(explained(vit, images, "daam")["daam"].values, wanted.flip(-1)) < 1e-5


@pytest.mark.parametrize("described", [lambda model: model, lambda model: vitscope.adapt(model, layout(model))])
def test_a_hook_that_comes_later_is_noticed(described, images):
    torch.manual_seed(0)
    vit = perturbed(VisionTransformer(**TINY, init_values=0.1, qk_norm=True))
    explainer = vitscope.Explainer(described(vit), preprocessing=PREPARED)
    wanted = explainer(images.flip(-1), "daam")["daam"].values
    vit.register_forward_pre_hook(lambda _, inputs: (inputs[0].flip(-1),))
    assert relative(explainer(images, "daam")["daam"].values, wanted.flip(-1)) < 1e-5


def _rows_backwards(tokens):
    """Patch tokens behind a class token, (b 1 + 16 D), the last row of the grid first."""
    return torch.cat([tokens[:, :1], tokens[:, 1:].unflatten(1, (4, 4)).flip(1).flatten(1, 2)], dim=1)


class RowsBackwards(VisionTransformer):
    def _pos_embed(self, x):
        return _rows_backwards(super()._pos_embed(x))


def _of_class(vit):
    own = perturbed(RowsBackwards(**TINY, init_values=0.1))
    own.load_state_dict(vit.state_dict())
    return own


def _of_instance(vit):
    there = vit._pos_embed
    vit._pos_embed = lambda x: _rows_backwards(there(x))
    return vit


def _behind(vit):
    vit.norm_pre.register_forward_hook(lambda _, __, tokens: _rows_backwards(tokens))
    return vit


def _at_block(vit):
    vit.blocks[0].register_forward_pre_hook(lambda _, inputs: (_rows_backwards(inputs[0]),))
    return vit


def _at_convolution(vit):
    vit.patch_embed.proj.register_forward_hook(lambda _, __, features: features.flip(-2))
    return vit


@pytest.mark.parametrize("change", [_of_class, _of_instance, _behind, _at_block, _at_convolution])
def test_tokens_that_are_reordered_behind_the_patches(change, vit, images):
    """The upper row of patches becomes the last row of tokens, whatever the image that is cut into patches."""
    model = change(vit)
    found = vitscope.Explainer(nn.Sequential(model) if change is _of_class else model, preprocessing=PREPARED)
    seen = []
    handle = found.anatomy.blocks[0].norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 1:]))
    upper = torch.zeros(1, 3, 32, 32)
    upper[..., :8, :] = 3
    with torch.no_grad():
        model(torch.cat([torch.zeros(1, 3, 32, 32), upper]))
    handle.remove()
    assert (seen[0][1] - seen[0][0]).norm(dim=-1).unflatten(0, (4, 4))[3].min() > 0
    assert found.anatomy.placement((32, 32)).describe() == "flipped top to bottom"
    assert found(images, "daam")["daam"].subject.geometries[0].crop == (0, 0, 32, 32)


def test_tokens_that_are_shuffled_behind_the_patches_are_put_back(vit, images):
    """No description fits, and each token's place is found."""
    wanted = explained(vit, images, ["daam", "agcam", "cdam"])
    order = torch.cat(
        [torch.zeros(1, dtype=torch.long), 1 + torch.randperm(16, generator=torch.Generator().manual_seed(1))]
    )
    vit.norm_pre.register_forward_hook(lambda _, __, tokens: tokens[:, order])
    found = explained(vit, images, ["daam", "agcam", "cdam"])
    for label in ["daam", "agcam", "cdam"]:
        torch.testing.assert_close(found[label].values, wanted[label].values, rtol=1e-3, atol=1e-6)


def test_a_hook_that_changes_nothing_moves_no_map():
    """T2T's tokens attend to each other and overlap before the blocks, and are centred above their cells."""
    from vitscope.models import t2t_vit

    found = t2t_vit("t2t_vit_14", img_size=64, depth=2, num_classes=3).eval()
    found.register_forward_pre_hook(lambda *_: None)
    assert anatomy_of(found).placement((64, 64)) == Placement.identity((64, 64))


def test_a_layout_of_a_model_that_flips_or_orders_its_tokens_otherwise(vit, images):
    for change, back in (TURNS["left to right"], TURNS["quarter turn"]):
        wanted = explained(vit, change(images), METHODS[:-1])
        found = explained(
            vitscope.adapt(Through(vit, change), layout(vit, query_norm=None, key_norm=None)), images, METHODS[:-1]
        )
        assert all(relative(found[label].values, back(wanted[label].values)) < 1e-4 for label in METHODS[:-1])
    turned = vitscope.adapt(ColumnsFirst(vit), layout(vit, query_norm=None, key_norm=None))
    found = explained(turned, images, "cdam")["cdam"]
    assert turned.placement((32, 32)).transposed
    leaf = images.clone().requires_grad_()
    turned.model(leaf).amax(dim=1).sum().backward()
    assert found.values.shape == (2, 4, 4)
    with pytest.raises(vitscope.ModelError, match=r"the patches of Through do not lie on its image as on a grid"):
        explained(vitscope.adapt(Through(vit, shuffled), layout(vit, query_norm=None, key_norm=None)), images, "cdam")


def test_windowed_models_behind_a_flip(images):
    torch.manual_seed(0)
    swin = perturbed(
        SwinTransformer(
            img_size=32, patch_size=2, embed_dim=12, depths=(2, 2), num_heads=(2, 2), window_size=4, num_classes=5
        )
    )
    for there, back in (TURNS["left to right"], TURNS["quarter turn"]):
        found = explained(Through(swin, there), images, ["attention", "input_x_gradient"])
        wanted = explained(swin, there(images), ["attention", "input_x_gradient"])
        for label in wanted:
            assert relative(found[label].values, back(wanted[label].values)) < 1e-4


def test_the_patches_of_a_convolutional_stem_cover_the_image():
    model = timm.create_model("vit_tiny_r_s16_p8_224", num_classes=3, img_size=64)
    anatomy = anatomy_of(model)
    rows, cols = anatomy.grid((64, 64))
    assert (rows * anatomy.patch[0], cols * anatomy.patch[1]) == (64, 64)


def test_the_description_tells_of_it(vit):
    wrapped = Through(vit, WINDOWS["cropped and flipped"][0])
    found = vitscope.describe(vitscope.Explainer(wrapped, preprocessing=PREPARED))
    assert found.facts["image"] == (
        "within the model flipped left to right, shows rows 0 to 16 and columns 8 to 24 of 32 x 32 pixels, "
        "resized to 32 x 32 pixels; maps are placed on what the model is given"
    )
    assert "image" not in vitscope.describe(vitscope.Explainer(vit, preprocessing=PREPARED)).facts
