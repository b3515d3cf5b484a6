"""The three papers' maps of models outside the zoo, against a computation by hand."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from tests.conftest import perturbed
from tests.recording import literal
from tests.zoo import small_vit
from vitscope.methods import as_method
from vitscope.network import probe
from vitscope.recording import Network, record_network
from vitscope.trace import Needs

METHODS = ("daam", "agcam", "cdam")
TOLERANCE = 1e-5


def first(output):
    return output[:, 1]


def logit(output):
    return output.logits[:, 1]


def row_major(grid, before=0, after=0, keys=None):
    """A layout of tokens in reading order between others, for every attention with as many keys."""
    count = math.prod(grid)
    cells = torch.cat([torch.full((before,), -1), torch.arange(count), torch.full((after,), -1)])

    def layout(_, seen):
        tokens = seen.values.shape[-2] if isinstance(seen, literal.Seen) else seen.shape[-2]
        if (keys is not None and tokens not in keys) or tokens != len(cells):
            return None
        return cells.expand(seen.values.shape[1:-1]) if isinstance(seen, literal.Seen) else cells, grid

    return layout


@dataclass(frozen=True)
class Case:
    """A model, its images, what is asked of it, where its tokens lie, and the module whose input CDAM reads."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    layout: Callable[[int, Any], Any]
    module: str | None = None
    target: Callable[[Any], Tensor] = first
    call: Callable[[nn.Module, Tensor], Any] = lambda model, images: model(images)
    located: Callable[[Tensor], Any] | None = None
    by: float = 0.2
    extra: str = ""


CASES: list[Case] = []


def add(name, make, shape, layout, module=None, **options):
    CASES.append(Case(name, make, shape, layout, module, **options))


def transformers(kind, config, **options):
    library = importlib.import_module("transformers")
    return getattr(library, kind)(getattr(library, config)(**options))


def add_hf(name, kind, config, shape, layout, module=None, **options):
    own = {key: options.pop(key) for key in ("target", "call", "located", "by") if key in options}
    add(name, partial(transformers, kind, config, **options), shape, layout, module, extra="transformers", **own)


SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
OF_32 = {"image_size": 32, "patch_size": 8}


# -- transformers ------------------------------------------------------------------------------------------------------


def swin_windows(side, window, shift):
    index = torch.arange(side * side).view(side, side).roll((-shift, -shift), (0, 1))
    return index.unfold(0, window, window).unfold(1, window, window).reshape(-1, 1, window * window)


def hf_swin(number, seen):
    side = (16, 16, 8, 8)[number]
    shift = 2 if number % 2 else 0
    cells = swin_windows(side, 4, shift)
    return cells.expand(-1, seen.values.shape[1], -1), (side, side)


SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 12, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}
add_hf(
    "Swin", "SwinForImageClassification", "SwinConfig", (3, 64, 64), hf_swin,
    "swin.encoder.layers.1.blocks.1.attention", target=logit, **SWIN, num_labels=5, by=0.1,
    located=lambda x: (swin_windows(8, 4, 2)[:, 0], (8, 8)),
)  # fmt: skip
PYRAMID = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2]}
add_hf(
    "SegFormer, a region", "SegformerForSemanticSegmentation", "SegformerConfig", (3, 64, 96), row_major((2, 3)),
    target=lambda output: output.logits[:, 1, 3:9, 5:11].mean(dim=(1, 2)), **PYRAMID, decoder_hidden_size=16,
    num_labels=4, by=0.1,
)  # fmt: skip


def pvt(number, seen):
    return row_major((2, 2), before=int(number == 3))(number, seen)


add_hf(
    "PVT", "PvtForImageClassification", "PvtConfig", (3, 64, 64), pvt, target=logit, **PYRAMID, image_size=64,
    num_labels=5, mlp_ratios=[2, 2, 2, 2], by=0.1,
)  # fmt: skip
add_hf(
    "YOLOS, a box", "YolosForObjectDetection", "YolosConfig", (3, 32, 48), row_major((4, 6), 1, 5),
    "vit.encoder.layer.1.attention", target=lambda output: output.logits[:, 2, 1], **SMALL, image_size=[32, 48],
    patch_size=8, num_detection_tokens=5,
)  # fmt: skip
BACKBONE = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1],
    "layer_type": "basic", "out_features": ["stage4"],
}  # fmt: skip
add_hf(
    "DETR, a query", "DetrForObjectDetection", "DetrConfig", (3, 96, 128), row_major((3, 4)),
    target=lambda output: output.logits[:, 3, 1], use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
    backbone_config=BACKBONE, d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=3,
    decoder_attention_heads=3, encoder_ffn_dim=48, decoder_ffn_dim=48, num_queries=5, by=0.1,
)  # fmt: skip
add_hf(
    "DPT, depth at a pixel", "DPTForDepthEstimation", "DPTConfig", (3, 32, 32), row_major((4, 4), 1),
    target=lambda output: output.predicted_depth[:, 10:14, 8:12].mean(dim=(1, 2)),
    **{**SMALL, "num_hidden_layers": 4}, **OF_32, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8],
    fusion_hidden_size=8, reassemble_factors=[4, 2, 1, 0.5], is_hybrid=False, by=0.1,
)  # fmt: skip
add_hf(
    "ViViT", "VivitForVideoClassification", "VivitConfig", (4, 3, 16, 24), row_major((2, 2, 3), 1),
    target=logit, **SMALL, image_size=[16, 24], num_frames=4, tubelet_size=[2, 8, 8], num_labels=5,
)  # fmt: skip
add_hf(
    "VideoMAE", "VideoMAEForVideoClassification", "VideoMAEConfig", (4, 3, 16, 16), row_major((2, 2, 2)),
    target=logit, **SMALL, image_size=16, patch_size=8, num_frames=4, tubelet_size=2, num_labels=5,
)  # fmt: skip
IDS = torch.tensor([[0, 5, 7, 1]])
TEXT = {**SMALL, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
add_hf(
    "CLIP, a text", "CLIPModel", "CLIPConfig", (3, 32, 32), row_major((4, 4), 1),
    target=lambda output: output.logits_per_image[:, 0], vision_config={**SMALL, **OF_32}, text_config=TEXT,
    projection_dim=12, call=lambda model, x: model(input_ids=IDS, pixel_values=x),
)  # fmt: skip
add_hf(
    "BLIP, a question", "BlipForImageTextRetrieval", "BlipConfig", (3, 32, 32), row_major((4, 4), 1, keys={17}),
    target=lambda output: output.itm_score[:, 1], vision_config={**SMALL, **OF_32},
    text_config={**TEXT, "encoder_hidden_size": 24, "is_decoder": True, "sep_token_id": 3},
    call=lambda model, x: model(input_ids=IDS.expand(len(x), -1), pixel_values=x),
)  # fmt: skip
add_hf(
    "ViT with a hidden state", "ViTModel", "ViTConfig", (3, 32, 32), row_major((4, 4), 1), "layers.1.attention",
    target=lambda output: output.last_hidden_state[:, 6, 3], **SMALL, **OF_32,
)  # fmt: skip
add_hf(
    "masked image model", "ViTForMaskedImageModeling", "ViTConfig", (3, 32, 32), row_major((4, 4), 1),
    target=lambda output: output.reconstruction[:, 0, 4, 5], **SMALL, **OF_32, encoder_stride=8,
)  # fmt: skip


MASKS = {
    "backbone_config": {
        "model_type": "swin", "image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 1, 1], "window_size": 2, "out_features": ["stage1", "stage2", "stage3", "stage4"],
    },
    "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32,
    "dim_feedforward": 32, "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "num_queries": 5,
}  # fmt: skip


def mask2former(number, seen):
    """Windows of the backbone, keys of three sizes under the decoder, and queries without a place."""
    keys = seen.values.shape[-2]
    if number < 4:
        side = (16, 8, 4, 2)[number]
        return swin_windows(side, 2, 0).expand(-1, seen.values.shape[1], -1), (side, side)
    return None if keys == 5 else row_major((math.isqrt(keys),) * 2)(number, seen)


add_hf(
    "Mask2Former, a query", "Mask2FormerForUniversalSegmentation", "Mask2FormerConfig", (3, 64, 64), mask2former,
    target=lambda output: output.class_queries_logits[:, 2, 1], **MASKS, by=0.1,
)  # fmt: skip


# -- torch and timm ----------------------------------------------------------------------------------------------------


class Patches(nn.Module):
    """Patches of an image as tokens, between learned ones."""

    def __init__(self, channels=3, width=24, before=1, patch=8, volume=False):
        super().__init__()
        self.cut = (nn.Conv3d if volume else nn.Conv2d)(channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, before, width)) if before else None
        self.places = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x):
        x = self.cut(x).flatten(2).transpose(1, 2) + self.places
        return x if self.token is None else torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)


class Encoder(nn.Module):
    """Torch's own encoder, read by the class token."""

    def __init__(self, norm_first, mean=False, **patches):
        super().__init__()
        self.patches = Patches(before=0 if mean else 1, **patches)
        layer = nn.TransformerEncoderLayer(24, 3, 48, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(24, 5)
        self.mean = mean

    def forward(self, x):
        x = self.encoder(self.patches(x))
        return self.head(x.mean(dim=1) if self.mean else x[:, 0])


LAST = "encoder.layers.1.self_attn"
add("post-norm encoder", lambda: Encoder(False), (3, 32, 32), row_major((4, 4), 1), LAST)
add("pre-norm encoder", lambda: Encoder(True), (3, 24, 32), row_major((3, 4), 1), LAST)
add("mean of a post-norm encoder", lambda: Encoder(False, mean=True), (3, 24, 32), row_major((3, 4)), LAST)
add("12 channels", lambda: Encoder(True, channels=12), (12, 24, 32), row_major((3, 4), 1), LAST)
add("1 channel", lambda: Encoder(True, channels=1), (1, 24, 32), row_major((3, 4), 1), LAST)
add("volume", lambda: Encoder(True, channels=1, volume=True), (1, 16, 24, 16), row_major((2, 3, 2), 1), LAST)


def parallel(block, **options):
    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5, block_fn=block, **options
    )


add("parallel attention and MLP", lambda: parallel(ParallelScalingBlock), (3, 32, 32), row_major((4, 4), 1))
add("parallel attentions", lambda: parallel(ParallelThingsBlock), (3, 32, 32), row_major((4, 4), 1))
add(
    "maximum of the tokens", lambda: small_vit(class_token=False, global_pool="max"), (3, 32, 32), row_major((4, 4)),
    "blocks.2.attn",
)  # fmt: skip
add(
    "registers and mean",
    lambda: small_vit(reg_tokens=3, global_pool="avg"),
    (3, 32, 32),
    row_major((4, 4), 4),
    "blocks.2.attn",
)
add(
    "attention pool",
    lambda: small_vit(class_token=False, global_pool="map"),
    (3, 32, 32),
    row_major((4, 4)),
    "attn_pool",
)


class TwoBackbones(nn.Module):
    """Features of two models side by side, of different patches."""

    def __init__(self):
        super().__init__()
        self.fine = small_vit(num_classes=0, depth=2)
        self.coarse = small_vit(num_classes=0, depth=1, patch_size=16, global_pool="avg", class_token=False)
        self.head = nn.Linear(48, 5)

    def forward(self, x):
        return self.head(torch.cat([self.fine(x), self.coarse(x)], dim=1))


def of_two(number, seen):
    return row_major((4, 4), 1)(number, seen) or row_major((2, 2))(number, seen)


add("two backbones", TwoBackbones, (3, 32, 32), of_two)


class TwoHeads(nn.Module):
    """One head on the class token, and one on a patch token, as a dict."""

    def __init__(self):
        super().__init__()
        self.backbone = small_vit(num_classes=0)
        self.malignancy, self.density = nn.Linear(24, 2), nn.Linear(24, 1)

    def forward(self, x):
        tokens = self.backbone.forward_features(x)
        return {"malignancy": self.malignancy(tokens[:, 0]), "density": [self.density(tokens[:, 4:7].mean(dim=1))]}


add(
    "a head",
    TwoHeads,
    (3, 32, 32),
    row_major((4, 4), 1),
    "backbone.blocks.2.attn",
    target=lambda out: out["malignancy"][:, 1],
)
add(
    "another head",
    TwoHeads,
    (3, 32, 32),
    row_major((4, 4), 1),
    "backbone.blocks.2.attn",
    target=lambda out: out["density"][0][:, 0],
)


class Own(nn.Module):
    """Attention written out, without norms, twice by the same module."""

    def __init__(self, product):
        super().__init__()
        self.patches = Patches(before=2)
        self.qkv, self.out, self.head = nn.Linear(24, 72), nn.Linear(24, 24), nn.Linear(24, 5)
        self.product = product

    def mix(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)
        a = F.dropout(((q @ k.transpose(-2, -1)) * 0.4 + 0.1).softmax(dim=-1), 0.5, self.training)
        return self.out(self.product(a, v).transpose(1, 2).flatten(2))

    def forward(self, x):
        x = self.patches(x)
        x = x + self.mix(x)
        x = x + torch.tanh(self.mix(x))
        return self.head(x[:, 1])


def multiplied(a, v):
    return torch.matmul(a, v)


def flattened(a, v):
    return torch.bmm(a.reshape(-1, *a.shape[-2:]), v.reshape(-1, *v.shape[-2:])).view(v.shape)


add("written out, matmul", lambda: Own(multiplied), (3, 32, 32), row_major((4, 4), 2))
add("written out, bmm", lambda: Own(flattened), (3, 32, 32), row_major((4, 4), 2))


class Latents(nn.Module):
    """Learned queries look at the patches, and then at each other; their mean is read (as in a Perceiver)."""

    def __init__(self):
        super().__init__()
        self.patches = Patches(before=0)
        self.latents = nn.Parameter(torch.zeros(1, 5, 24))
        self.cross = nn.MultiheadAttention(24, 3, batch_first=True)
        self.itself = nn.MultiheadAttention(24, 3, batch_first=True)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        memory = self.patches(x)
        x = self.latents.expand(len(x), -1, -1)
        x = x + self.cross(x, memory, memory, need_weights=False)[0]
        x = x + self.itself(x, x, x)[0]
        return self.head(x.mean(dim=1))


def image_keys(number, seen):
    return None if seen.values.shape[-2] == 5 else row_major((3, 4))(number, seen)


add("latents", Latents, (3, 24, 32), image_keys)


class DecoderOver(nn.Module):
    """Torch's own decoder over an encoder, without batches first."""

    def __init__(self):
        super().__init__()
        self.patches = Patches(before=0)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(24, 3, 48), 1, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(24, 3, 48), 2)
        self.queries = nn.Parameter(torch.zeros(5, 1, 24))
        self.head = nn.Linear(24, 4)

    def forward(self, x):
        memory = self.encoder(self.patches(x).transpose(0, 1))
        return self.head(self.decoder(self.queries.expand(-1, len(x), -1), memory)).transpose(0, 1)


def batch_in_the_middle(number, seen):
    return None if seen.values.shape[-2] == 5 else row_major((3, 4))(number, seen)


add("encoder and decoder", DecoderOver, (3, 24, 32), batch_in_the_middle, target=lambda output: output[:, 2, 1])


class Differential(nn.Module):
    """One attention subtracted from another, on halves of the channels."""

    def __init__(self):
        super().__init__()
        self.patches = Patches()
        self.qkv, self.head = nn.Linear(24, 72), nn.Linear(24, 5)

    def forward(self, x):
        x = self.patches(x)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        (q1, q2), (k1, k2) = q.chunk(2, dim=-1), k.chunk(2, dim=-1)
        x = x + F.scaled_dot_product_attention(q1, k1, v) - 0.4 * F.scaled_dot_product_attention(q2, k2, v)
        return self.head(x[:, 0])


add("differential attention", Differential, (3, 32, 32), row_major((4, 4), 1))


# -- the tests ---------------------------------------------------------------------------------------------------------


def model_of(case):
    torch.manual_seed(len(case.name))
    return perturbed(case.make(), torch.Generator().manual_seed(len(case.name)), by=case.by).double()


def images_of(case, count=2):
    return torch.randn(count, *case.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def maps_of(model, case, images, methods=METHODS):
    network = Network(model, case.call, probe(model, case.call, images[:1]))
    chosen = {label: as_method(label) for label in methods}
    needs = reduce(Needs.__or__, (method.needs for method in chosen.values()))
    recording = record_network(network, images, needs, [case.target], None)
    return {label: method(recording).values[:, 0].double() for label, method in chosen.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_maps_are_those_computed_by_hand(case):
    if case.extra:
        pytest.importorskip(case.extra)
    model, images = model_of(case), images_of(case)
    module = None if case.module is None else model.get_submodule(case.module)
    located = case.located or (lambda tokens: case.layout(-1, tokens))
    wanted = literal.explain(partial(case.call, model), images, case.target, case.layout, module, located)
    found = maps_of(model, case, images, METHODS if module is not None else METHODS[:2])
    for label, values in found.items():
        expected = getattr(wanted, label)
        assert values.shape == expected.shape, label
        assert bool(expected.any()), label
        assert float(((values - expected).norm() / expected.norm()).detach()) < TOLERANCE, label


def test_there_are_enough_models():
    assert len(CASES) >= 20
