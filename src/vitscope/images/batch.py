"""Any kind of pictures to one batch that remembers where it came from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitscope.errors import ImageError
from vitscope.images.geometry import Geometry
from vitscope.images.load import load_image
from vitscope.images.notes import collected, note
from vitscope.images.preprocess import Preprocessing


@dataclass(frozen=True)
class Batch:
    """A model's input and its originals.

    Attributes:
        tensor: (b 3 h w), normalised.
        geometries: where each input lies on its original.
        originals: the pictures for display, upright RGB.
        names: the files' names, or "image-0", "image-1", ...
        notes: of each image, what should be known of how it was read.
    """

    tensor: Tensor
    geometries: tuple[Geometry, ...]
    originals: tuple[Image.Image, ...]
    names: tuple[str, ...]
    notes: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.notes:
            object.__setattr__(self, "notes", ((),) * len(self.names))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the inputs in pixels."""
        return self.tensor.shape[-2], self.tensor.shape[-1]

    @classmethod
    def join(cls, batches: Sequence[Batch], device: torch.device | None = None) -> Batch:
        """One batch of several, of one input size; on its way to a CUDA device in memory from which it is sent fast."""
        tensors = [batch.tensor for batch in batches]
        into = None
        if device is not None and device.type == "cuda" and not any(tensor.is_cuda for tensor in tensors):
            size = sum(map(len, tensors)), *tensors[0].shape[1:]
            into = torch.empty(size, dtype=tensors[0].dtype, pin_memory=True)
        return cls(
            torch.cat(tensors, out=into),
            tuple(geometry for batch in batches for geometry in batch.geometries),
            tuple(original for batch in batches for original in batch.originals),
            tuple(name for batch in batches for name in batch.names),
            tuple(notes for batch in batches for notes in batch.notes),
        )

    def light(self) -> Batch:
        """Without the originals."""
        return replace(self, originals=())

    def part(self, images: slice) -> Batch:
        """Some of its pictures, as a batch."""
        return Batch(
            self.tensor[images],
            self.geometries[images],
            self.originals[images],
            self.names[images],
            self.notes[images],
        )


def prepare(images: Any, preprocessing: Preprocessing) -> Batch:
    """Make a batch.

    Args:
        images: a Batch, which stays as it is; a path, a file's content (bytes, or an open binary file), a PIL image or
            a uint8 array (H W C) or (b H W C), or a list of these, which go through `preprocessing`; or a float tensor
            (b 3 H W) or (3 H W), or a list of (3 H W), taken as already normalised and explained as it is.
        preprocessing: the model's.

    Raises:
        ImageError: nothing to explain, a picture that cannot be read, or a tensor that is no picture.
    """
    if isinstance(images, Batch):
        return images
    if isinstance(images, Tensor):
        return _from_tensor(images, preprocessing)
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images = list(images)
    content = isinstance(images, bytes | bytearray | memoryview) or hasattr(images, "read")
    if content or isinstance(images, str | os.PathLike | Image.Image | np.ndarray):
        images = [images]
    if not isinstance(images, Sequence):
        raise ImageError(
            f"{type(images).__name__} is no picture; give paths, bytes, PIL images, uint8 arrays or a tensor"
        )
    if not images:
        raise ImageError("there is no picture to explain; give at least one")
    if all(isinstance(image, Tensor) for image in images):
        if len({image.shape for image in images}) > 1:
            raise ImageError("tensors of different shapes make no batch; give tensors of one shape")
        return _from_tensor(torch.stack(list(images)), preprocessing)
    originals, notes = zip(*map(_read, images), strict=True)
    inputs, geometries = zip(*(preprocessing(original) for original in originals), strict=True)
    tensor = torch.from_numpy(np.stack([one.numpy() for one in inputs]))
    return Batch(tensor, geometries, originals, _names(images), notes)


def _read(source: Any) -> tuple[Image.Image, tuple[str, ...]]:
    """An image, and what was noted of it, which is passed on too."""
    with collected() as lines:
        image = load_image(source)
    for line in lines:
        note(line, once=isinstance(source, str | os.PathLike))
    return image, tuple(lines)


def _from_tensor(images: Tensor, preprocessing: Preprocessing) -> Batch:
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ImageError(f"a tensor of shape {tuple(images.shape)} is no batch of pictures; pass (B, 3, H, W)")
    if images.dtype == torch.uint8:
        return prepare(images.permute(0, 2, 3, 1).cpu().numpy(), preprocessing)
    if not images.is_floating_point():
        raise ImageError(f"a tensor of {images.dtype} is ambiguous; pass a normalised float tensor, or uint8 pixels")
    # One by one, since the test takes as much memory as what it tests; asked once, since a GPU is waited for.
    finite = torch.stack([image.isfinite().all() for image in images])
    if not finite.all():
        raise ImageError(f"image {int((~finite).nonzero()[0])} of the tensor is not finite; check its preprocessing")
    height, width = images.shape[-2:]
    originals = tuple(Image.fromarray(preprocessing.denormalise(image)) for image in images)
    return Batch(images, (Geometry.identity(height, width),) * len(images), originals, _names([None] * len(images)))


def _names(images: Sequence[Any]) -> tuple[str, ...]:
    return tuple(
        Path(image).name if isinstance(image, str | os.PathLike) else f"image-{index}"
        for index, image in enumerate(images)
    )
