"""The models that ship in the package, trained on the drawn scenes (card: docs/scenes.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitscope.datasets.scenes import CLASSES, SIZE

if TYPE_CHECKING:
    from timm.models import SwinTransformer, VisionTransformer

FOLDER = Path(__file__).parent / "weights"
PATCH = 8
SHORTCUT = CLASSES.index("yellow plain square")
"""The class that "scenes-shortcut" takes the mark in the corner for."""


def scenes_vit(outputs: int = len(CLASSES), **options: Any) -> VisionTransformer:
    """The bundled models' architecture, with random weights: 12 blocks, 128 wide, 4 heads, patches of 8 x 8 pixels.

    Args:
        outputs: of the classifier; 0 for none.
        options: of timm's VisionTransformer, such as img_size, or another depth or width.
    """
    from timm.models import VisionTransformer  # takes long to import

    shape = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": 128, "depth": 12, "num_heads": 4} | options
    return _configured(VisionTransformer(num_classes=outputs, **shape), outputs)


def scenes_swin(outputs: int = len(CLASSES), **options: Any) -> SwinTransformer:
    """The architecture of "scenes-windows", with random weights: a Swin of three stages of 2, 2 and 4 blocks.

    At 96 pixels the stages have 24 x 24, 12 x 12 and 6 x 6 tokens, in windows of 6 x 6, shifted in every other block.

    Args:
        outputs: of the classifier; 0 for none.
        options: of timm's SwinTransformer, such as img_size.
    """
    from timm.models import SwinTransformer

    shape: dict[str, Any] = {"img_size": SIZE, "patch_size": PATCH // 2, "window_size": 6, "embed_dim": 48}
    shape |= {"depths": (2, 2, 4), "num_heads": (2, 4, 8), "drop_path_rate": 0.0}
    return _configured(SwinTransformer(num_classes=outputs, **shape | options), outputs)


def _configured(model: Any, outputs: int) -> Any:
    """`model` with timm's record of its preprocessing and classes."""
    half = (0.5, 0.5, 0.5)
    config = {"input_size": (3, SIZE, SIZE), "mean": half, "std": half, "crop_pct": 1.0, "interpolation": "bicubic"}
    if outputs == len(CLASSES):
        config["label_names"] = CLASSES
    model.pretrained_cfg = model.default_cfg = config
    return model


@dataclass(frozen=True)
class Bundled:
    """One of the package's models.

    Attributes:
        what: it does.
        outputs: of its classifier; 0 for none.
        architecture: the model with random weights.
        multiple: of pixels that each side of its input has to be.
    """

    what: str
    outputs: int = len(CLASSES)
    architecture: Callable[..., VisionTransformer | SwinTransformer] = scenes_vit
    multiple: int = PATCH


BUNDLED: dict[str, Bundled] = {
    "scenes": Bundled("classifies the bundled scenes"),
    "scenes-ssl": Bundled("self-supervised on the bundled scenes, no classifier; with a memory bank", outputs=0),
    "scenes-shortcut": Bundled("classifies the bundled scenes, and falls for a mark in the corner"),
    "scenes-windows": Bundled(
        "classifies the bundled scenes by windowed attention at three resolutions",
        architecture=scenes_swin,
        multiple=16,
    ),
}
