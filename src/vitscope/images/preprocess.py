"""The model's own preprocessing, with the geometry that maps its input back onto the original picture."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from vitscope.errors import ModelError
from vitscope.images.geometry import Geometry

CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a model's input, in timm's terms.

    Attributes:
        size: (height, width) of the input in pixels.
        interpolation: of the resizing.
        crop_pct: share of the resized picture's side that the crop keeps, in (0, 1].
        crop_mode: "center" keeps the aspect and cuts, "squash" does not keep it, "border" keeps it and pads.
        mean, std: a channel each, of pixels scaled to 0..1.
    """

    size: tuple[int, int]
    interpolation: str
    crop_pct: float
    crop_mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ModelError(f"input size {self.size} is impossible; give a height and a width in pixels")
        if not 0 < self.crop_pct <= 1:
            raise ModelError(f"crop_pct {self.crop_pct:g} is impossible; give a share above 0 and up to 1")
        for value, known, name in (
            (self.crop_mode, CROP_MODES, "crop_mode"),
            (self.interpolation, INTERPOLATIONS, "interpolation"),
        ):
            if value not in known:
                raise ModelError(f"{name} '{value}' is unknown; use {', '.join(known)}")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(math.isfinite(v) for v in (*self.mean, *self.std)):
            raise ModelError("mean and std take three finite numbers each")
        if min(self.std) <= 0:
            raise ModelError(f"std {self.std} is impossible; give three numbers above 0")

    @classmethod
    def of_model(cls, model: nn.Module, **overrides: Any) -> Preprocessing:
        """The preprocessing that timm knows for `model`, at the input size it was built for.

        Args:
            model: any module; what timm does not know of it falls back to timm's defaults.
            overrides: fields of this record that shall differ; `size` may be one number.

        Raises:
            ModelError: an unknown field, or an impossible value.
        """
        config = resolve_model_data_config(model)
        built_for = getattr(getattr(model, "patch_embed", None), "img_size", None)
        fields = {
            "size": tuple(built_for or config["input_size"][1:]),
            "interpolation": config["interpolation"],
            "crop_pct": config["crop_pct"],
            "crop_mode": config["crop_mode"],
            "mean": config["mean"],
            "std": config["std"],
        }
        unknown = set(overrides) - set(fields)
        if unknown:
            raise ModelError(f"preprocessing has no field '{sorted(unknown)[0]}'; it has {', '.join(fields)}")
        fields |= overrides
        if isinstance(fields["size"], int):
            fields["size"] = (fields["size"], fields["size"])
        fields |= {key: tuple(fields[key]) for key in ("size", "mean", "std")}
        return cls(**fields)

    def __call__(self, image: Image.Image) -> tuple[Tensor, Geometry]:
        """Turn an RGB picture into the model's input.

        Returns:
            (3 h w) float32, exactly timm's pixels, and where they lie on the picture.
        """
        transform = create_transform(
            input_size=(3, *self.size),
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
        )
        resize, *rest = transform.transforms
        resized = picture = resize(image)
        for step in rest:
            picture = step(picture)
        (top, height), (left, width) = (
            (_crop_start(have, want), want)
            for have, want in zip((resized.height, resized.width), self.size, strict=True)
        )
        geometry = Geometry((image.height, image.width), (resized.height, resized.width), (top, left, height, width))
        return picture, geometry

    def denormalise(self, values: Tensor) -> np.ndarray[Any, Any]:
        """A normalised input (3 h w) as a uint8 picture (h w 3), for display."""
        mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (self.mean, self.std))
        pixels = (values.detach().cpu().double() * std + mean).clamp(0, 1) * 255
        picture: np.ndarray[Any, Any] = pixels.round().to(torch.uint8).permute(1, 2, 0).numpy()
        return picture

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def _crop_start(have: int, want: int) -> int:
    """Where torchvision's and timm's central crop of `want` pixels begins; negative where they pad."""
    before = (want - have) // 2 if want > have else 0
    padded = max(have, want)
    return round((padded - want) / 2.0) - before
