"""Arrays as text for a page: base64 of little-endian numbers, 32-bit floats as they are or 16 bits with a scale."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vitscope.arrays import as_array

LEVELS = 32767
"""The largest 16-bit number; a value is off by half a level at most, 1.5e-5 of its row's largest magnitude."""


def exact(values: Tensor | NDArray[Any]) -> dict[str, Any]:
    """Float32, bit by bit: `dtype`, `shape`, `data`."""
    array = as_array(values).astype("<f4")
    return {"dtype": "float32", "shape": list(array.shape), "data": _text(array)}


def rounded(values: Tensor | NDArray[Any]) -> dict[str, Any]:
    """16-bit levels with a float32 scale for each entry of the leading axis, its largest magnitude.

    Args:
        values: (k ...), finite.

    Returns:
        `dtype`, `shape`, `data`, and `scale`, base64 of (k) float32: value = level / `LEVELS` * scale.
    """
    array = as_array(values).astype(np.float32, copy=False)
    scale = np.abs(array).reshape(len(array), -1).max(axis=1).astype("<f4")
    safe = np.where(scale > 0, scale, 1).reshape(-1, *[1] * (array.ndim - 1))
    levels = np.rint(array / safe * LEVELS).astype("<i2")
    return {"dtype": "int16", "shape": list(array.shape), "data": _text(levels), "scale": _text(scale)}


def unpacked(packed: dict[str, Any]) -> NDArray[np.float32]:
    """The numbers again; what the page's script does."""
    kind = {"float32": "<f4", "int16": "<i2"}[packed["dtype"]]
    array = np.frombuffer(base64.b64decode(packed["data"]), kind).reshape(packed["shape"])
    if packed["dtype"] == "float32":
        return array.astype(np.float32)
    scale = np.frombuffer(base64.b64decode(packed["scale"]), "<f4").reshape(-1, *[1] * (array.ndim - 1))
    found: NDArray[np.float32] = (array.astype(np.float32) / LEVELS * scale).astype(np.float32)
    return found


def size_of(shape: tuple[int, ...]) -> int:
    """Characters of what `rounded` makes of an array of this shape, without its few names."""
    return 4 * -(-2 * int(np.prod(shape)) // 3) + 4 * -(-4 * shape[0] // 3)


def _text(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
