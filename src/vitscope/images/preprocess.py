"""The model's own preprocessing, with the geometry that maps its input back onto the original picture."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from vitscope.arrays import as_array
from vitscope.errors import ImageError, ModelError
from vitscope.images.geometry import Geometry

CROP_MODES = ("center", "squash", "border")
CROP_STARTS = ("even", "down")
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
        crop_start: where a central crop begins when an odd number of pixels is cut off: "even" rounds its half to the
            even number (timm, torchvision, open_clip), "down" rounds it down (transformers).
    """

    FIELDS: ClassVar[frozenset[str]] = frozenset(
        ("size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "crop_start")
    )

    size: tuple[int, int]
    interpolation: str
    crop_pct: float
    crop_mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_start: str = "even"

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ModelError(f"input size {self.size} is impossible; give a height and a width in pixels")
        if not 0 < self.crop_pct <= 1:
            raise ModelError(f"crop_pct {self.crop_pct:g} is impossible; give a share above 0 and up to 1")
        for value, known, name in (
            (self.crop_mode, CROP_MODES, "crop_mode"),
            (self.interpolation, INTERPOLATIONS, "interpolation"),
            (self.crop_start, CROP_STARTS, "crop_start"),
        ):
            if value not in known:
                raise ModelError(f"{name} '{value}' is unknown; use {', '.join(known)}")
        if self.crop_mode == "border" and self.crop_start != "even":
            raise ModelError(f"crop_start '{self.crop_start}' does not go with crop_mode 'border'; use even")
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
        from timm.data import resolve_model_data_config  # takes long to import

        config = resolve_model_data_config(model)
        built_for = getattr(getattr(model, "patch_embed", None), "img_size", None)
        return cls.of_fields(
            size=built_for or config["input_size"][1:],
            interpolation=config["interpolation"],
            crop_pct=config["crop_pct"],
            crop_mode=config["crop_mode"],
            mean=config["mean"],
            std=config["std"],
        ).replaced(**overrides)

    @classmethod
    def of_fields(cls, **fields: Any) -> Preprocessing:
        """The record of these fields; `size` may be one number, and lists will do for tuples.

        Raises:
            ModelError: an unknown field, or an impossible value.
        """
        return cls(**_fields(fields))

    def replaced(self, **fields: Any) -> Preprocessing:
        """The same with some fields replaced; `size` may be one number.

        Raises:
            ModelError: an unknown field, or an impossible value.
        """
        return replace(self, **_fields(fields))

    def __call__(self, image: Image.Image) -> tuple[Tensor, Geometry]:
        """Turn an RGB picture into the model's input.

        Returns:
            (3 h w) float32, exactly timm's pixels (with `crop_start="down"` exactly transformers' with its PIL
            backend, up to float32 rounding), and where they lie on the picture.

        Raises:
            ImageError: so long and narrow a picture that it would be more pixels than are read.
        """
        from timm.data import create_transform

        transform = create_transform(
            input_size=(3, *self.size),
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
        )
        resize, crop, *_ = transform.transforms
        self._check_shape(image)
        resized = resize(image)
        down = self.crop_start == "down"
        top, left = (
            (have - want) // 2 if down else _crop_start(have, want)
            for have, want in zip((resized.height, resized.width), self.size, strict=True)
        )
        height, width = self.size
        picture = resized.crop((left, top, left + width, top + height)) if down else crop(resized)
        geometry = Geometry((image.height, image.width), (resized.height, resized.width), (top, left, height, width))
        return torch.from_numpy(self._normalise(picture)), geometry

    def _normalise(self, picture: Image.Image) -> NDArray[np.float32]:
        """(3 h w), as timm's last two steps do it."""
        pixels = np.asarray(picture, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
        mean, std = (np.array(v, dtype=np.float32)[:, None, None] for v in (self.mean, self.std))
        return np.ascontiguousarray((pixels - mean) / std)

    def _check_shape(self, image: Image.Image) -> None:
        """Raise ImageError where resizing so long and narrow a picture would make too many pixels, or none."""
        if self.crop_mode == "squash":
            return
        shares = [have * self.crop_pct / want for have, want in zip(image.size, self.size[::-1], strict=True)]
        share = min(shares) if self.crop_mode == "center" else max(shares)
        width, height = (side / share for side in image.size)
        if width * height > (Image.MAX_IMAGE_PIXELS or math.inf) or min(width, height) <= 0.5:
            raise ImageError(
                f"a picture of {image.width} x {image.height} pixels is too long and narrow to be resized; cut it first"
            )

    def denormalise(self, values: Tensor) -> np.ndarray[Any, Any]:
        """A normalised input (3 h w) as a uint8 picture (h w 3), for display."""
        mean, std = (np.array(v, dtype=np.float64)[:, None, None] for v in (self.mean, self.std))
        pixels = np.clip(as_array(values).astype(np.float64) * std + mean, 0, 1) * 255
        return np.rint(pixels).astype(np.uint8).transpose(1, 2, 0).copy()

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def _fields(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record as it holds them, from what people write."""
    unknown = set(given) - Preprocessing.FIELDS
    if unknown:
        raise ModelError(
            f"preprocessing has no field '{sorted(unknown)[0]}'; it has {', '.join(sorted(Preprocessing.FIELDS))}"
        )
    fields = dict(given)
    if isinstance(fields.get("size"), int):
        fields["size"] = (fields["size"], fields["size"])
    return fields | {key: tuple(fields[key]) for key in ("size", "mean", "std") if key in fields}


def _crop_start(have: int, want: int) -> int:
    """Where torchvision's and timm's central crop of `want` pixels begins; negative where they pad."""
    before = (want - have) // 2 if want > have else 0
    padded = max(have, want)
    return round((padded - want) / 2.0) - before
