"""The probe finds the layout that adapters know, and layouts that none knows; counts of forward passes."""

from __future__ import annotations

import importlib
import logging
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import vitscope
from tests.conftest import perturbed
from tests.zoo import ZOO, Normalise, built, marks_of, module_of, small_vit
from vitscope.network import probe
from vitscope.network.spec import InputSpec
from vitscope.recording import AttentionCalls
from vitscope.trace.guard import left_as_found
from vitscope.trace.hooks import hooks

POOLED_TO_MORE = "timm/pvt_v2_b2_li"
"""At 96 pixels its stages of 6 x 6 and 3 x 3 are pooled to 7 x 7, whose places are not those of a grid."""

PASSES = {
    "timm/levit_128s": 12,  # in three rounds: attention moves tokens without a residual stream twice
    "timm/levit_conv_128s": 12,
    "timm/xcit_nano_12_p16_224": 17,  # convolutions blur the places of so few tokens, so that more noise is drawn
    "timm/maxvit_nano_rw_256": 17,
    POOLED_TO_MORE: 17,
}
"""How often these are run, instead of 4 times at most: on one image, and on two at a time."""


def run(model, images):
    return model(images)


def probed(model, sample, call=run, seed=0):
    """The spec, and how many forward passes it took."""
    count = [0]

    def counted(network, images):
        count[0] += 1
        return call(network, images)

    return probe(model, counted, sample, seed), count[0]


def rows_of(layout):
    return layout.cells.reshape(-1, layout.cells.shape[-1])


def wanted_cells(prefix, grid):
    return torch.cat([torch.full((prefix,), -1), torch.arange(math.prod(grid))])


def entries():
    return [pytest.param(entry, id=f"{entry.family}-{entry.name}", marks=marks_of(entry)) for entry in ZOO]


@pytest.fixture(params=entries())
def entry(request):
    if request.param.extra:
        pytest.importorskip(request.param.extra)
    return request.param


def described(entry):
    made = built(entry)
    logging.disable(logging.WARNING)  # that the preprocessing of a module of one's own is unknown
    explainer = vitscope.Explainer(made)
    logging.disable(logging.NOTSET)
    return module_of(made), explainer.anatomy, tuple(entry.size or explainer.preprocessing.size)


def test_the_zoo_is_placed_as_its_adapters_say(entry):
    model, anatomy, size = described(entry)
    spec, passes = probed(model, torch.zeros(1, 3, *size), entry.output)
    assert spec.in_batches
    assert spec.input.spatial == (2, 3)
    assert passes <= PASSES.get(entry.name, 4)
    if anatomy.blocks:
        check_blocks(spec, anatomy, size)
    else:
        check_windows(spec, anatomy, entry, model, size)


def check_blocks(spec, anatomy, size):
    grid = tuple(anatomy.grid(size))
    last = [site for site in spec.sites if site.layout is not None][-len(anatomy.blocks) :]
    for site in last:
        prefix = site.keys - math.prod(grid)
        assert prefix in (0, len(anatomy.prefix))
        assert site.layout.grid == grid
        assert all(torch.equal(row, wanted_cells(prefix, grid)) for row in rows_of(site.layout))
        assert site.fold.axis == 0
    assert spec.grid == grid or "T2T" in type(anatomy.model).__name__


def check_windows(spec, anatomy, entry, model, size):
    """Values of keys lie where the adapter puts what keys receive."""
    excluded = [site for site in spec.sites if site.layout is None]
    assert {site.reason for site in excluded} <= {"its keys lie on no clear grid"}
    assert not excluded or entry.name == POOLED_TO_MORE
    names = {module: name for name, module in model.named_modules()}
    shapes, inputs = {}, {}

    def answer(number, call, run):
        shapes[number] = call.value.shape[:-1]
        return run(call)

    with left_as_found(model), hooks() as hook, AttentionCalls(model, answer):
        for window in anatomy.windows:
            hook.before_with(window.site, partial(inputs.__setitem__, window.name))
        entry.output(model, torch.zeros(1, 3, *size))
    generator = torch.Generator().manual_seed(0)
    checked = 0
    for window in anatomy.windows:
        site = next(site for site in spec.sites if site.name.startswith(names[window.attention]))
        if site.layout is None:
            continue
        values = torch.randn(shapes[site.number], generator=generator)
        wanted = window.put_back(values, inputs[window.name]).sum(dim=1)[0]
        found = site.layout.to_grid(site.fold.split(values, 1))[0]
        torch.testing.assert_close(found, wanted)
        checked += 1
    assert checked >= len(anatomy.windows) - len(excluded)


CHANNELS = "each of its keys responds to the whole image"


def test_channel_attention_has_no_place():
    entry = next(each for each in ZOO if "xcit" in each.name)
    model, _, size = described(entry)
    spec, _ = probed(model, torch.zeros(1, 3, *size))
    channel = [site for site in spec.sites if site.kind == "channel"]
    assert len(channel) == 3
    assert all(site.layout is None and site.reason == CHANNELS for site in channel)


def test_shifted_windows_of_every_stage_at_full_size():
    timm = importlib.import_module("timm")
    torch.manual_seed(0)
    model = perturbed(
        timm.create_model("swin_tiny_patch4_window7_224", embed_dim=12, depths=(2, 2, 2, 2), num_heads=(1, 1, 2, 2)),
        by=0.05,
    )
    spec, passes = probed(model, torch.zeros(1, 3, 224, 224))
    assert passes <= 4
    sides = [56, 56, 28, 28, 14, 14, 7, 7]
    assert [site.layout.grid for site in spec.sites] == [(side, side) for side in sides]
    for site, side in zip(spec.sites, sides, strict=True):
        assert site.layout.located == site.layout.cells.numel()
        shift = 3 if site.number % 2 and side > 7 else 0
        index = torch.arange(side * side).view(side, side).roll((-shift, -shift), (0, 1))
        windows = index.unfold(0, 7, 7).unfold(1, 7, 7).reshape(-1, 49)
        assert torch.equal(site.layout.cells[:, 0], windows)
    assert [tokens.layout.grid for tokens in spec.tokens] == [(7, 7)] * len(spec.tokens)
    assert spec.grid == (56, 56)


class Wrapped(nn.Module):
    """A model that sees a changed image."""

    def __init__(self, change):
        super().__init__()
        self.inner = small_vit()
        self.change = change

    def forward(self, x):
        return self.inner(self.change(x))


CELLS = torch.arange(16).view(4, 4)


@pytest.mark.parametrize(
    ("change", "cells"),
    [
        (lambda x: x.flip(-1), CELLS.flip(1)),
        (lambda x: x.flip(-2), CELLS.flip(0)),
        (lambda x: x.transpose(-2, -1), CELLS.T),
        (lambda x: x.rot90(1, (-2, -1)), CELLS.rot90(1)),
        (lambda x: (x - 0.5) / 0.2, CELLS),
        (lambda x: x.roll(8, -1), CELLS.roll(1, 1)),
    ],
    ids=["flip columns", "flip rows", "transpose", "rotate", "normalise", "roll"],
)
def test_what_a_wrapper_does_to_the_image_is_part_of_the_places(change, cells):
    model = perturbed(Wrapped(change), by=0.2)
    spec, _ = probed(model, torch.zeros(1, 3, 32, 32))
    for site in spec.sites:
        assert all(torch.equal(row, torch.cat([torch.tensor([-1]), cells.flatten()])) for row in rows_of(site.layout))


def test_a_cropped_border_has_no_tokens():
    """The places of the tokens of a crop are within the crop: the centre of 48 pixels."""
    model = perturbed(Wrapped(lambda x: x[..., 8:40, 8:40]), by=0.2)
    spec, _ = probed(model, torch.zeros(1, 3, 48, 48))
    for site in spec.sites:
        assert site.layout.grid == (4, 4)  # cells of the crop, not of the image


def test_a_zoomed_image():
    model = perturbed(Wrapped(lambda x: F.interpolate(x, size=(32, 32), mode="bilinear")), by=0.2)
    spec, _ = probed(model, torch.zeros(1, 3, 48, 64))
    assert all(torch.equal(row, wanted_cells(1, (4, 4))) for site in spec.sites for row in rows_of(site.layout))


def test_a_seed_gives_the_same_spec():
    model = perturbed(small_vit(), by=0.2)
    specs = [probed(model, torch.randn(1, 3, 32, 32), seed=0)[0] for _ in range(2)]
    for one, other in zip(specs[0].sites, specs[1].sites, strict=True):
        assert (one.name, one.kind, one.fold, one.layout.grid) == (
            other.name,
            other.kind,
            other.fold,
            other.layout.grid,
        )
        assert one.layout.quality == other.layout.quality
        assert torch.equal(one.layout.cells, other.layout.cells)
    third = probed(model, torch.zeros(1, 3, 32, 32), seed=5)[0]
    assert all(
        torch.equal(one.layout.cells, other.layout.cells)
        for one, other in zip(specs[0].sites, third.sites, strict=True)
    )


def test_the_model_and_the_random_numbers_are_as_before():
    model = perturbed(small_vit(), by=0.2).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.random.get_rng_state()
    probed(model, torch.zeros(1, 3, 32, 32))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_in_float32_tokens_without_place_are_told_from_rounding(monkeypatch):
    """A model too large for a copy in float64 is probed as it is."""
    monkeypatch.setattr(importlib.import_module("vitscope.network.probe"), "MOST_DOUBLED", 0)
    model = perturbed(small_vit(reg_tokens=4), by=0.2)
    spec, _ = probed(model, torch.zeros(1, 3, 32, 32))
    for site in spec.sites:
        assert all(torch.equal(row, wanted_cells(5, (4, 4))) for row in rows_of(site.layout))


def test_learned_queries_do_not_respond_to_the_image():
    """Other numbers of samples change the last digits of what does not depend on the image."""

    class Pool(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 48, 8, 8)
            self.probe = nn.Parameter(torch.zeros(1, 7, 48))
            self.q, self.kv = nn.Linear(48, 48), nn.Linear(48, 96)
            self.before = nn.Sequential(nn.Linear(48, 333), nn.GELU(), nn.Linear(333, 48))

        def forward(self, x):
            x = self.patches(x).flatten(2).transpose(1, 2)
            k, v = self.kv(x).chunk(2, dim=-1)
            q = self.q(self.before(self.probe.expand(len(x), -1, -1)))
            return F.scaled_dot_product_attention(q, k, v).mean(dim=(1, 2))

    spec, _ = probed(perturbed(Pool()), torch.zeros(1, 3, 32, 32))
    (site,) = spec.sites
    assert site.kind in ("cross", "pool")
    assert torch.equal(rows_of(site.layout)[0], wanted_cells(0, (4, 4)))


class OfTokens(nn.Module):
    """Two pre-norm attention layers over tokens that a stem makes, and the mean of them."""

    def __init__(self, stem, width=24, prefix=0):
        super().__init__()
        self.stem = stem
        self.prefix = nn.Parameter(torch.zeros(1, prefix, width)) if prefix else None
        layer = nn.TransformerEncoderLayer(width, 3, 48, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x if self.prefix is None else torch.cat([self.prefix.expand(len(x), -1, -1), x], dim=1)
        return self.head(self.encoder(x).mean(dim=1))


class Flat(nn.Module):
    """A convolution, and its places as tokens."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return self.conv(x).flatten(2).transpose(1, 2)


class FramesFirst(nn.Module):
    """Patches of a video (b t C H W), frame by frame."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 24, 8, 8)

    def forward(self, x):
        return self.conv(x.flatten(0, 1)).flatten(2).transpose(1, 2).reshape(len(x), -1, 24)


@pytest.mark.parametrize(
    ("stem", "shape", "grid", "most"),
    [
        (lambda: Flat(nn.Conv2d(12, 24, 8, 8)), (12, 32, 40), (4, 5), 4),
        (lambda: Flat(nn.Conv2d(1, 24, 8, 8)), (1, 24, 40), (3, 5), 4),
        (lambda: Flat(nn.Conv3d(3, 24, (2, 8, 8), (2, 8, 8))), (3, 8, 24, 32), (4, 3, 4), 5),
        (lambda: Flat(nn.Conv3d(1, 24, 8, 8)), (1, 24, 32, 16), (3, 4, 2), 5),
        (FramesFirst, (4, 3, 16, 24), (4, 2, 3), 5),
        (lambda: nn.Linear(40, 24), (11, 40), (11,), 3),
        (lambda: Flat(nn.Conv1d(2, 24, 10, 10)), (2, 120), (12,), 3),
    ],
    ids=["12 channels", "1 channel", "video", "volume", "frames first", "bag", "signal"],
)
@pytest.mark.parametrize("prefix", [0, 2])
def test_inputs_of_any_kind(stem, shape, grid, most, prefix):
    torch.manual_seed(0)
    model = perturbed(OfTokens(stem(), prefix=prefix))
    spec, passes = probed(model, torch.zeros(1, *shape))
    assert passes <= most
    assert len(spec.sites) == 2
    for site in spec.sites:
        assert site.layout.grid == grid
        assert all(torch.equal(row, wanted_cells(prefix, grid)) for row in rows_of(site.layout))


@pytest.mark.parametrize(
    ("shape", "spatial"),
    [
        ((3, 32, 32), (2, 3)), ((32, 32, 3), (1, 2)), ((12, 32, 32), (2, 3)), ((3, 8, 32, 32), (2, 3, 4)),
        ((8, 3, 32, 32), (1, 3, 4)), ((1, 16, 32, 32), (2, 3, 4)), ((20, 40), (1,)), ((1, 100), (2,)), ((9,), (1,)),
    ],
)  # fmt: skip
def test_axes_of_an_input(shape, spatial):
    spec = InputSpec.of(torch.zeros(1, *shape))
    assert spec.spatial == spatial
    assert spec.size == tuple(shape[axis - 1] for axis in spatial)


def test_a_network_that_takes_one_sample_alone():
    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small_vit()

        def forward(self, x):
            assert len(x) == 1
            return self.inner(x)

    spec, passes = probed(perturbed(Alone(), by=0.2), torch.zeros(1, 3, 32, 32))
    assert not spec.in_batches
    assert passes <= 8
    assert all(torch.equal(row, wanted_cells(1, (4, 4))) for site in spec.sites for row in rows_of(site.layout))


def test_squeeze_and_excitation_does_not_spread_places():
    class Excited(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gate = nn.Conv2d(3, 24, 8, 8), nn.Conv2d(24, 24, 1)

        def forward(self, x):
            x = self.conv(x)
            return (x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()).flatten(2).transpose(1, 2)

    spec, _ = probed(perturbed(OfTokens(Excited())), torch.zeros(1, 3, 32, 32))
    assert all(torch.equal(row, wanted_cells(0, (4, 4))) for site in spec.sites for row in rows_of(site.layout))


def test_a_network_without_attention_has_no_sites_and_located_outputs():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 8, 2, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    spec, _ = probed(perturbed(model), torch.zeros(1, 3, 32, 32))
    assert spec.sites == ()
    assert [tokens.layout.grid for tokens in spec.tokens][-1] == (4, 4)
    assert spec.grid is not None


def transformers(kind, config, **options):
    library = pytest.importorskip("transformers")
    torch.manual_seed(0)
    return perturbed(getattr(library, kind)(getattr(library, config)(**options)), by=0.05)


SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}


def test_detection_tokens_have_no_place():
    model = transformers(
        "YolosForObjectDetection", "YolosConfig", **SMALL, image_size=[32, 48], patch_size=8, num_detection_tokens=5
    )
    spec, _ = probed(model, torch.zeros(1, 3, 32, 48))
    wanted = torch.cat([torch.tensor([-1]), torch.arange(24), torch.full((5,), -1)])
    assert len(spec.sites) == 2
    assert all(torch.equal(row, wanted) for site in spec.sites for row in rows_of(site.layout))


def test_an_encoder_and_a_decoder_of_boxes():
    backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
    options = {
        "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
        "backbone_config": {**backbone, "layer_type": "basic", "out_features": ["stage4"]},
        "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 3,
        "decoder_attention_heads": 3, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_queries": 5,
    }  # fmt: skip
    model = transformers("DetrForObjectDetection", "DetrConfig", **options)
    spec, _ = probed(model, torch.zeros(1, 3, 160, 192))
    encoder = [site for site in spec.sites if site.queries == site.keys == 30]
    cross = [site for site in spec.sites if site.queries == 5 and site.keys == 30]
    queries = [site for site in spec.sites if site.queries == site.keys == 5]
    assert (len(encoder), len(cross), len(queries)) == (2, 2, 2)
    assert {site.kind for site in cross} <= {"cross", "pool"}
    assert all(site.layout is None for site in queries)
    for site in encoder + cross:
        assert site.layout.grid == (5, 6)
        assert all(torch.equal(row, wanted_cells(0, (5, 6))) for row in rows_of(site.layout))


def test_pooled_keys_of_segmentation():
    model = transformers(
        "SegformerForSemanticSegmentation", "SegformerConfig", depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16, num_labels=4,
    )  # fmt: skip
    spec, _ = probed(model, torch.zeros(1, 3, 64, 96))
    assert [site.layout.grid for site in spec.sites] == [(2, 3)] * 4
    for site in spec.sites:
        assert all(torch.equal(row, wanted_cells(0, (2, 3))) for row in rows_of(site.layout))


def test_a_text_beside_an_image_has_no_place():
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    text = {**SMALL, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    model = transformers("CLIPModel", "CLIPConfig", vision_config=vision, text_config=text, projection_dim=12)
    ids = torch.tensor([[0, 5, 7, 1]])

    def call(network, images):
        return network(input_ids=ids.expand(2, -1), pixel_values=images)

    spec, _ = probed(model, torch.zeros(1, 3, 32, 32), call)
    placed = [site for site in spec.sites if site.layout is not None]
    assert len(placed) == 2
    assert len(spec.sites) == 4
    assert all(torch.equal(row, wanted_cells(1, (4, 4))) for site in placed for row in rows_of(site.layout))
    assert {site.name.partition(".")[0] for site in placed} == {"vision_model"}


def test_dense_prediction():
    model = transformers(
        "DPTForDepthEstimation", "DPTConfig", **{**SMALL, "num_hidden_layers": 4}, image_size=32, patch_size=8,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        reassemble_factors=[4, 2, 1, 0.5], is_hybrid=False,
    )  # fmt: skip
    spec, _ = probed(model, torch.zeros(1, 3, 32, 32))
    assert len(spec.sites) == 4
    assert all(torch.equal(row, wanted_cells(1, (4, 4))) for site in spec.sites for row in rows_of(site.layout))


def test_a_normalisation_in_front():
    model = perturbed(nn.Sequential(Normalise(), small_vit(class_token=False, global_pool="avg")), by=0.2)
    spec, _ = probed(model, torch.zeros(1, 3, 32, 32))
    assert all(torch.equal(row, wanted_cells(0, (4, 4))) for site in spec.sites for row in rows_of(site.layout))
