"""The models that ship in the package: vision transformers trained on the drawn scenes (card: docs/scenes.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitscope.datasets.scenes import CLASSES, SIZE

if TYPE_CHECKING:
    from timm.models import VisionTransformer

FOLDER = Path(__file__).parent / "weights"
PATCH = 8
SHORTCUT = CLASSES.index("yellow plain square")
"""The class that "scenes-shortcut" takes the mark in the corner for."""


@dataclass(frozen=True)
class Bundled:
    """One of the package's models: what it is, and how many outputs its classifier has (0 = none)."""

    what: str
    outputs: int = len(CLASSES)


BUNDLED: dict[str, Bundled] = {
    "scenes": Bundled("classifies the bundled scenes"),
    "scenes-ssl": Bundled("self-supervised on the bundled scenes, no classifier; with a memory bank", outputs=0),
    "scenes-shortcut": Bundled("classifies the bundled scenes, and falls for a mark in the corner"),
}


def scenes_vit(outputs: int = len(CLASSES), **options: Any) -> VisionTransformer:
    """The bundled models' architecture, with random weights: 12 blocks, 128 wide, 4 heads, patches of 8 x 8 pixels.

    Args:
        outputs: of the classifier; 0 for none.
        options: of timm's VisionTransformer, such as img_size, or another depth or width.
    """
    from timm.models import VisionTransformer  # takes long to import

    shape = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": 128, "depth": 12, "num_heads": 4} | options
    model = VisionTransformer(num_classes=outputs, **shape)
    half = (0.5, 0.5, 0.5)
    config = {"input_size": (3, SIZE, SIZE), "mean": half, "std": half, "crop_pct": 1.0, "interpolation": "bicubic"}
    if outputs == len(CLASSES):
        config["label_names"] = CLASSES
    model.pretrained_cfg = model.default_cfg = config
    return model
