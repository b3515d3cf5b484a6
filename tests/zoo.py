"""The zoo: small models with random weights of every family that vitscope explains, for the contract and the table.

Depth, width and picture are reduced where the family's own constructor allows it; the blocks are the published ones.
"""

from __future__ import annotations

import functools
import importlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.models.vision_transformer import Block, PatchEmbed, VisionTransformer
from torch import Tensor, nn
from torchvision.models import swin_transformer as swin

import vitscope
from tests.conftest import perturbed
from vitscope.models import Anatomy, t2t_vit

Model = nn.Module | Anatomy
CLASSES = 7
SMALL = {"depth": 3, "embed_dim": 48, "num_heads": 3, "num_classes": CLASSES}


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    Attributes:
        family: its heading in the table of docs/models.md.
        name: the model's name at its source; with `family`, its row of the table.
        make: builds it, before its parameters are moved.
        by: how far its parameters are moved, so that outputs stay finite and no map is flat.
        output: the untouched model's output (b c) of images, without vitscope.
        seed: of its random numbers, after which each model has its own.
        extra: the package that it needs beyond the base install, or "".
        listed: whether it has a row of its own in the table.
        size: of its images, of a model that takes any; by default what its source says.
    """

    family: str
    name: str
    make: Callable[[], Model]
    by: float = 0.1
    output: Callable[[Any, Tensor], Tensor] = lambda model, images: model(images)
    seed: int = 0
    extra: str = ""
    listed: bool = True
    size: tuple[int, int] | None = None


ZOO: list[Entry] = []


def add(family: str, name: str, make: Callable[[], Model], **options: Any) -> None:
    ZOO.append(Entry(family, name, make, **options))


def built(entry: Entry) -> Model:
    """The entry's model with every parameter moved, in evaluation mode."""
    seed = zlib.crc32(entry.name.encode()) + entry.seed
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = entry.make()
    perturbed(module_of(model), torch.Generator().manual_seed(seed), by=entry.by)
    return model


def module_of(model: Model) -> nn.Module:
    return model.model if isinstance(model, Anatomy) else model


# -- timm --------------------------------------------------------------------------------------------------------------


def add_timm(family: str, name: str, size: int | None = 64, by: float = 0.1, **options: Any) -> None:
    settings = {"num_classes": CLASSES} | ({} if size is None else {"img_size": size}) | options
    pool = f", global_pool={options['global_pool']}" if "global_pool" in options else ""
    add(family, f"timm/{name}{pool}", functools.partial(timm.create_model, name, **settings), by=by)


add_timm("ViT", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", **SMALL)
add_timm("ViT", "vit_base_patch32_224", 96, **SMALL, dynamic_img_size=True)
add_timm("DeiT", "deit_small_patch16_224", **SMALL)
add_timm("DeiT, distilled", "deit_tiny_distilled_patch16_224", **SMALL)
add_timm("DeiT-3", "deit3_small_patch16_224", **SMALL)
add_timm("MAE, fine-tuned", "vit_base_patch16_224.mae", **SMALL)
add_timm("MAE, fine-tuned", "vit_huge_patch14_224.mae", 56, **SMALL, global_pool="avg")
add_timm("DINO", "vit_small_patch8_224.dino", 32, **SMALL)
add_timm("DINOv2", "vit_small_patch14_dinov2", 56, **SMALL)
add_timm("DINOv2 with registers", "vit_small_patch14_reg4_dinov2", 56, **SMALL, dynamic_img_size=True)
add_timm("DINOv3", "vit_small_patch16_dinov3", **SMALL)
add_timm("CLIP tower", "vit_base_patch16_clip_224", **SMALL)
add_timm("ViT, average pool", "vit_base_patch16_gap_224", **SMALL)
add_timm("ViT, average pool", "vit_little_patch16_reg4_gap_256", **SMALL, dynamic_img_size=True)
add_timm("SigLIP", "vit_base_patch16_siglip_224", **SMALL)
add_timm("SigLIP 2", "vit_base_patch16_siglip_256.v2_webli", **SMALL)
add_timm("SigLIP, average pool", "vit_base_patch16_siglip_gap_224", **SMALL)
add_timm("Perception Encoder", "vit_pe_core_tiny_patch16_384", **SMALL)
add_timm("RoPE ViT, axial", "vit_small_patch16_rope_224", **SMALL)
add_timm("RoPE ViT, mixed", "vit_small_patch16_rope_mixed_224", **SMALL)
add_timm("BEiT", "beit_base_patch16_224", **SMALL)
add_timm("BEiT v2", "beitv2_base_patch16_224", **SMALL, global_pool="token")
add_timm("EVA", "eva_giant_patch14_224", 56, **SMALL)
add_timm("EVA-02", "eva02_tiny_patch14_224", 56, **SMALL)
add_timm("EVA-02", "eva02_base_patch16_clip_224", **SMALL)
add_timm("CaiT", "cait_xxs24_224", **SMALL)
add_timm("XCiT", "xcit_nano_12_p16_224", **SMALL)
add_timm("XCiT", "xcit_nano_12_p8_224", 32, **SMALL)
add_timm("ConViT", "convit_tiny", depth=4, local_up_to_layer=2, embed_dim=12)
TWO_BRANCHES = {"embed_dim": [24, 48], "num_heads": [2, 2], "depth": [[1, 2, 0], [1, 2, 0]]}
add_timm("CrossViT", "crossvit_9_240", 120, by=0.05, **TWO_BRANCHES)
DOWN = {"embed_dim": (32, 48, 64), "num_heads": (2, 3, 4), "key_dim": 16, "depth": (2, 1, 1)}
add_timm("LeViT", "levit_128s", 224, by=0.18, **DOWN)
add_timm("LeViT", "levit_conv_128s", 224, by=0.18, **DOWN)
PYRAMID = {"depths": (1, 1, 2, 1), "embed_dims": (8, 16, 24, 32), "num_heads": (1, 2, 3, 4)}
OF_96 = {"pretrained_cfg_overlay": {"input_size": (3, 96, 96)}}
add_timm("PVT v2", "pvt_v2_b0", None, by=0.05, **PYRAMID, **OF_96)
add_timm("PVT v2", "pvt_v2_b2_li", None, by=0.05, **PYRAMID, **OF_96)
NARROW = {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}
add_timm("Swin", "swin_tiny_patch4_window7_224", 56, by=0.05, **NARROW)
add_timm("Swin v2", "swinv2_tiny_window8_256", by=0.05, window_size=4, **NARROW)
HYBRID = {"embed_dim": (32, 32, 64, 64), "depths": (1, 1, 1, 1), "stem_width": 16}
add_timm("MaxViT", "maxvit_nano_rw_256", 64, by=0.05, **HYBRID)
add_timm("MaxViT", "maxvit_tiny_tf_224", 64, by=0.05, **HYBRID)
MASKED = {"embed_dim": 24, "stages": (1, 2, 2, 1)}
add_timm("Hiera", "hiera_tiny_224", 128, by=0.05, **MASKED)


# -- torchvision, T2T-ViT, DINO's own class ----------------------------------------------------------------------------

add(
    "ViT",
    "torchvision/vit_b_16",
    lambda: torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=3, num_heads=3, hidden_dim=48, mlp_dim=96, num_classes=CLASSES
    ),
)
TORCHVISION = {
    "patch_size": [4, 4],
    "embed_dim": 24,
    "depths": [2, 2, 2, 2],
    "num_heads": [1, 2, 4, 8],
    "num_classes": CLASSES,
}
V1 = {"window_size": [7, 7]}
V2 = {"window_size": [8, 8], "block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
add("Swin", "torchvision/swin_t", lambda: swin.SwinTransformer(**TORCHVISION, **V1), by=0.05, size=(64, 64))
add("Swin v2", "torchvision/swin_v2_t", lambda: swin.SwinTransformer(**TORCHVISION, **V2), by=0.05, size=(64, 64))
add("T2T-ViT", "t2t/t2t_vit_14", lambda: t2t_vit("t2t_vit_14", num_classes=CLASSES, img_size=64, depth=3), by=0.05)
add("T2T-ViT", "t2t/t2t_vit_t_14", lambda: t2t_vit("t2t_vit_t_14", num_classes=CLASSES, img_size=64, depth=3), by=0.05)


class HubAttention(nn.Module):
    """As in DINO's repository: written out, with its matrix beside its output."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        matrix = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        return self.proj((matrix @ v).transpose(1, 2).reshape(b, n, c)), matrix


class HubBlock(nn.Module):
    """As in DINO's repository."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = HubAttention(dim, num_heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))[0]
        return x + self.mlp(self.norm2(x))


class HubPatches(nn.Module):
    """As in DINO's repository."""

    def __init__(self, img_size: int, patch_size: int, dim: int) -> None:
        super().__init__()
        self.img_size, self.patch_size = img_size, patch_size
        self.proj = nn.Conv2d(3, dim, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class HubTransformer(nn.Module):
    """The structure of the class in DINO's repository, with its names."""

    def __init__(self, dim: int = 24, depth: int = 3, num_heads: int = 3, num_classes: int = 0) -> None:
        super().__init__()
        self.patch_embed = HubPatches(32, 8, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, dim))
        self.blocks = nn.ModuleList(HubBlock(dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes) if num_classes else nn.Identity()

    def interpolate_pos_encoding(self, rows: int, cols: int) -> Tensor:
        at_class, at_patches = self.pos_embed.split([1, 16], dim=1)
        plane = at_patches.unflatten(1, (4, 4)).permute(0, 3, 1, 2)
        plane = nn.functional.interpolate(plane, size=(rows, cols), mode="bicubic")
        return torch.cat([at_class, plane.flatten(2).transpose(1, 2)], dim=1)

    def prepare_tokens(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)], dim=1)
        return tokens + self.interpolate_pos_encoding(x.shape[-2] // 8, x.shape[-1] // 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.prepare_tokens(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


add("DINO", "hub/dino_vits8", HubTransformer, by=0.3)
add("DINO", "hub/dino_vits8 with a head", lambda: HubTransformer(num_classes=CLASSES), by=0.3, listed=False)


# -- transformers ------------------------------------------------------------------------------------------------------

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "vocab_size": 50,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
TOWERS = {"vision_config": TINY, "text_config": TEXT}
SEVEN = {"num_labels": CLASSES}


def other_size(images: Tensor) -> dict[str, bool]:
    return {} if images.shape[-2:] == (32, 32) else {"interpolate_pos_encoding": True}


def logits(model: Any, images: Tensor) -> Tensor:
    return model(images, **other_size(images)).logits


def sized_logits(model: Any, images: Tensor) -> Tensor:
    return model(images).logits


def pooled(model: Any, images: Tensor) -> Tensor:
    return model(images, **other_size(images)).pooler_output


def sized_pooled(model: Any, images: Tensor) -> Tensor:
    return model(images).pooler_output


def embedding(model: Any, images: Tensor) -> Tensor:
    return model.get_image_features(images, **other_size(images)).pooler_output


def class_token(model: Any, images: Tensor) -> Tensor:
    """Of a ViT-MAE, in order; without `noise` it would shuffle its patches at random."""
    noise = torch.linspace(0, 1, (images.shape[-2] // 8) * (images.shape[-1] // 8)).expand(len(images), -1)
    return model(images, noise=noise, **other_size(images)).last_hidden_state[:, 0]


def add_hf(family: str, kind: str, config: str, output: Callable[[Any, Tensor], Tensor], **options: Any) -> None:
    sizes = {} if "vision_config" in options else TINY

    def make() -> nn.Module:
        transformers = importlib.import_module("transformers")
        return getattr(transformers, kind)(getattr(transformers, config)(**{**sizes, **options}))

    add(family, f"transformers {kind}", make, by=0.3, output=output, extra="transformers")


add_hf("ViT", "ViTForImageClassification", "ViTConfig", logits, **SEVEN)
add_hf("DeiT", "DeiTForImageClassification", "DeiTConfig", logits, **SEVEN)
add_hf("DeiT, distilled", "DeiTForImageClassificationWithTeacher", "DeiTConfig", logits, **SEVEN)
add_hf("MAE", "ViTMAEModel", "ViTMAEConfig", class_token, mask_ratio=0.0)
add_hf("DINOv2", "Dinov2Model", "Dinov2Config", sized_pooled)
add_hf("DINOv2", "Dinov2ForImageClassification", "Dinov2Config", sized_logits, **SEVEN)
add_hf(
    "DINOv2 with registers",
    "Dinov2WithRegistersForImageClassification",
    "Dinov2WithRegistersConfig",
    sized_logits,
    **SEVEN,
)
add_hf("DINOv3", "DINOv3ViTModel", "DINOv3ViTConfig", sized_pooled, num_register_tokens=4)
add_hf("BEiT", "BeitForImageClassification", "BeitConfig", sized_logits, **SEVEN, use_relative_position_bias=True)
add_hf("CLIP tower", "CLIPVisionModel", "CLIPVisionConfig", pooled)
add_hf("CLIP", "CLIPModel", "CLIPConfig", embedding, **TOWERS, projection_dim=12)
add_hf("SigLIP", "SiglipModel", "SiglipConfig", embedding, **TOWERS)
add_hf("SigLIP, average pool", "SiglipForImageClassification", "SiglipConfig", logits, **TOWERS, **SEVEN)


# -- open_clip ---------------------------------------------------------------------------------------------------------

VISION = {"image_size": 32, "patch_size": 8, "width": 24, "layers": 3, "heads": 3, "mlp_ratio": 2.0, "output_dim": 12}
WORDS = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}


def open_clip_tower(**options: Any) -> nn.Module:
    made: nn.Module = importlib.import_module("open_clip.transformer").VisionTransformer(**{**VISION, **options})
    return made


def open_clip_pair(**vision: Any) -> nn.Module:
    made: nn.Module = importlib.import_module("open_clip").CLIP(embed_dim=12, vision_cfg=vision, text_cfg=WORDS)
    return made


def add_open_clip(family: str, name: str, make: Callable[[], nn.Module], **options: Any) -> None:
    add(family, f"open_clip {name}", make, by=0.2, extra="open_clip", **options)


def image_embedding(model: Any, images: Tensor) -> Tensor:
    return model.encode_image(images)


add_open_clip("CLIP tower", "VisionTransformer", functools.partial(open_clip_tower, pool_type="tok"))
add_open_clip("CLIP tower, average pool", "VisionTransformer", functools.partial(open_clip_tower, pool_type="avg"))
add_open_clip(
    "CLIP",
    "CLIP",
    lambda: open_clip_pair(layers=3, width=24, head_width=8, patch_size=8, image_size=32),
    output=image_embedding,
)


def open_clip_pair_with_timm() -> nn.Module:
    tower = {"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False, "image_size": 64}
    model: Any = open_clip_pair(**tower, timm_pool="", timm_proj="linear")
    model.visual.trunk.blocks = model.visual.trunk.blocks[:3]
    return model


add_open_clip("CLIP", "CLIP with a timm tower", open_clip_pair_with_timm, output=image_embedding)


# -- wrapped, and of anyone's own --------------------------------------------------------------------------------------


def small_vit(**options: Any) -> VisionTransformer:
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": CLASSES}
    return VisionTransformer(**{**settings, **options})


def compiled_vit() -> nn.Module:
    return torch.compile(small_vit(), backend="eager")


def compiled_in_place() -> nn.Module:
    model = small_vit()
    for block in model.blocks:
        block.compile(backend="eager")
    return model


class Normalise(nn.Module):
    """Subtracts the mean and divides by the spread, inside the model."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25


class Holder(nn.Module):
    """Keeps its network as `.model`, as training frameworks do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = small_vit()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def lightning_module() -> nn.Module:
    """The same as a LightningModule."""
    lightning = importlib.import_module("lightning")
    return type("LightningHolder", (Holder, lightning.LightningModule), {})()


class OwnHead(nn.Module):
    """A backbone without a head, and a head behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = small_vit(num_classes=0)
        self.classifier = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.backbone(x))


class OfBlocks(nn.Module):
    """A module of anyone's own with timm's blocks inside, read by its class token or the mean of its patches."""

    def __init__(self, mean: bool) -> None:
        super().__init__()
        self.mean = mean
        self.embed = PatchEmbed(32, 8, 3, 24)
        self.token = None if mean else nn.Parameter(torch.zeros(1, 1, 24))
        self.positions = nn.Parameter(torch.zeros(1, 16 if mean else 17, 24))
        self.layers = nn.ModuleList(Block(24, 3) for _ in range(3))
        self.last_norm = nn.LayerNorm(24)
        self.out = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        x = x + self.positions
        for layer in self.layers:
            x = layer(x)
        x = self.last_norm(x)
        return self.out(x.mean(dim=1) if self.mean else x[:, 0])


class HomeBlock(nn.Module):
    """A pre-norm block on nn.MultiheadAttention."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(24), nn.LayerNorm(24)
        self.mix = nn.MultiheadAttention(24, 3, batch_first=True)
        self.think = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.before(x)
        x = x + self.mix(normed, normed, normed, need_weights=False)[0]
        return x + self.think(self.between(x))


class Home(nn.Module):
    """A vision transformer that shares no class with any library."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 24, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 24))
        self.places = nn.Parameter(torch.zeros(1, 17, 24))
        self.steps = nn.ModuleList(HomeBlock() for _ in range(3))
        self.last = nn.LayerNorm(24)
        self.answer = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cut(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.places
        for step in self.steps:
            x = step(x)
        return self.answer(self.last(x)[:, 0])


def adapted() -> Anatomy:
    model = Home()
    layout = vitscope.models.Layout(
        blocks=list(model.steps),
        final_norm=model.last,
        head=model.answer,
        patch=8,
        image_size=32,
        norm1="before",
        attention="mix",
        norm2="between",
        mlp="think",
    )
    return vitscope.adapt(model, layout)


OWN = "your own"
add(OWN, "torch.nn.DataParallel", lambda: nn.DataParallel(small_vit()), by=0.2)
add(OWN, "torch.compile", compiled_vit, by=0.2)
add(OWN, "a compiled part in a module of your own", lambda: nn.Sequential(Normalise(), compiled_vit()), by=0.2)
add(OWN, "compiled in place", compiled_in_place, by=0.2, listed=False)
add(OWN, "module with a `.model`, as in Lightning", Holder, by=0.2)
add(OWN, "LightningModule", lightning_module, by=0.2, extra="lightning", listed=False)
add(OWN, "nn.Sequential with a normalisation", lambda: nn.Sequential(Normalise(), small_vit()), by=0.2)
add(OWN, "backbone and a head of your own", OwnHead, by=0.2)
add(OWN, "timm Blocks in a module of your own", lambda: OfBlocks(mean=False), by=0.2)
add(OWN, "timm Blocks and the mean of their tokens", lambda: OfBlocks(mean=True), by=0.2)
add(OWN, "any other, by vitscope.adapt", adapted, by=0.2)


# -- one of each kind --------------------------------------------------------------------------------------------------

KINDS = (
    "timm/vit_tiny",
    "timm/vit_base_patch32",
    "timm/vit_small_patch14_reg4",
    "timm/vit_base_patch16_siglip_224",
    "timm/cait",
    "timm/xcit_nano_12_p16",
    "timm/swin_tiny",
    "torchvision/vit_b_16",
    "transformers ViTForImageClassification",
    "transformers CLIPModel",
    "any other, by vitscope.adapt",
)
"""What the names of models begin with that stand for their kind: other parts, heads or libraries."""


def of_each_kind(entry: Entry) -> bool:
    """Whether the model stands for its kind, so that every test of the zoo takes it."""
    return entry.name.startswith(KINDS) or entry.name == "open_clip CLIP"


def marks_of(entry: Entry) -> list[pytest.MarkDecorator]:
    """All other models are integration tests of the zoo."""
    return [] if of_each_kind(entry) else [pytest.mark.integration]
