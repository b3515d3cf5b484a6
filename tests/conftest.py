"""Tiny random models, with every zero-initialised scale perturbed, and the folder of shared files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers import SwiGLUPacked
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tests.browser import browser  # noqa: F401  a fixture

SHARED = Path(os.environ.get("VITSCOPE_SHARED", Path(__file__).parents[1].parent / "shared"))

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 7}

LAYOUTS: dict[str, Callable[..., nn.Module]] = {
    "vit": lambda **kw: VisionTransformer(**{**TINY, **kw}),
    "non_square": lambda **kw: VisionTransformer(**{**TINY, "img_size": (32, 48), **kw}),
    "dynamic": lambda **kw: VisionTransformer(**{**TINY, "dynamic_img_size": True, **kw}),
    "distilled": lambda **kw: VisionTransformerDistilled(**{**TINY, **kw}),
    "deit3": lambda **kw: VisionTransformer(**{**TINY, "no_embed_class": True, "init_values": 1e-6, **kw}),
    "dinov2_registers": lambda **kw: VisionTransformer(
        **{
            **TINY,
            "reg_tokens": 4,
            "no_embed_class": True,
            "init_values": 1e-5,
            "mlp_layer": SwiGLUPacked,
            **kw,
        }
    ),
    "clip": lambda **kw: VisionTransformer(**{**TINY, "pre_norm": True, **kw}),
    "qk_norm": lambda **kw: VisionTransformer(**{**TINY, "qk_norm": True, **kw}),
    "scale_norm": lambda **kw: VisionTransformer(
        **{**TINY, "scale_attn_norm": True, "scale_mlp_norm": True, "qkv_bias": False, **kw}
    ),
    "fc_norm": lambda **kw: VisionTransformer(**{**TINY, "fc_norm": True, **kw}),
    "one_block": lambda **kw: VisionTransformer(**{**TINY, "depth": 1, **kw}),
}

POOLED: dict[str, Callable[..., nn.Module]] = {
    "mean": lambda **kw: VisionTransformer(**{**TINY, "global_pool": "avg", **kw}),
    "mean_no_class_token": lambda **kw: VisionTransformer(
        **{**TINY, "global_pool": "avg", "class_token": False, "img_size": (32, 48), **kw}
    ),
    "mean_one_block": lambda **kw: VisionTransformer(**{**TINY, "global_pool": "avg", "depth": 1, **kw}),
    "max": lambda **kw: VisionTransformer(**{**TINY, "global_pool": "max", "class_token": False, **kw}),
    "attention_pool": lambda **kw: VisionTransformer(
        **{**TINY, "global_pool": "map", "class_token": False, "img_size": (32, 48), **kw}
    ),
}
"""Layouts without a class row."""


def build(layout: str = "vit", seed: int = 0, dtype: torch.dtype = torch.float32, fused: bool = True, **options):
    """A random model of one layout; all its parameters are moved, so that no scale is 0, 1 or alike by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = (LAYOUTS | POOLED)[layout](**options)
    perturbed(model, generator)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    return model.eval().to(dtype)


def perturbed(model: nn.Module, generator: torch.Generator | None = None, by: float = 0.3) -> nn.Module:
    """The model with all its parameters moved, in place, so that no scale is 0, 1 or alike by chance."""
    generator = generator or torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = by * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(parameter.sign() * by + spread if parameter.abs().max() < 1e-4 else parameter + spread)
    return model.eval()


def pictures(model: nn.Module, count: int = 2, seed: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normalised random input (count 3 H W) of the model's size; the dynamic one gets a size of its own."""
    size = (24, 40) if model.dynamic_img_size else tuple(model.patch_embed.img_size)
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def shared() -> Path:
    """The folder of real weights, photographs and golden files."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared files at {SHARED}; set VITSCOPE_SHARED")
    return SHARED


@pytest.fixture
def golden(shared: Path):
    """Outputs of the official implementations on a real ViT-Ti/16."""
    return np.load(shared / "golden" / "vit_tiny_imagenet.npz")


@pytest.fixture(params=sorted(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> str:
    """Each token and block layout in turn."""
    return request.param


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that look at pages in a browser are integration tests, whatever their file."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.integration)
