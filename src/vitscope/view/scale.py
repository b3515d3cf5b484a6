"""Named normalisations: raw maps in, numbers that a palette can colour out.

Every function takes a tensor or an array and gives an array, in NumPy (`vitscope.arrays`). It is pure, keeps the shape,
ignores NaN (the pixels outside the model's crop, which stay NaN) and gives zeros, never NaN, for a flat map. Infinite
values are an error that names itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vitscope.arrays import as_array
from vitscope.errors import FlatMapError

Values = Tensor | NDArray[Any]

DAAM_SLOPE = 5.0
"""The factor in front of the sigmoid of DAAM's display."""

COLOURS_END = 0.98
"""Pictures' colours end at this quantile of a map's |values|, so that a few peaks do not hide the rest."""

_UNIT = 2048  # an 8-bit resize in fixed point: the two weights of a pair of neighbours add up to 2048


def minmax(m: Values) -> NDArray[Any]:
    """Scale a map to [0, 1] by its own smallest and largest value.

    Args:
        m: raw values of any shape, NaN outside.

    Returns:
        The same shape in [0, 1]; zeros where the map is flat.

    Raises:
        FlatMapError: a value is infinite.
    """
    return scaled(as_array(m), limits(m), signed=False)


def symmetric(m: Values) -> NDArray[Any]:
    """Divide a signed map by its largest magnitude: values in [-1, 1], and 0 stays 0.

    Args:
        m: raw signed values of any shape, NaN outside.

    Returns:
        The same shape in [-1, 1]; zeros where the map is zero everywhere.

    Raises:
        FlatMapError: a value is infinite.
    """
    return scaled(as_array(m), limits(m), signed=True)


def scaled(m: NDArray[Any], ends: tuple[float, float], signed: bool) -> NDArray[Any]:
    """`symmetric` where signed, else `minmax`, with known `limits`, such as those of a larger map."""
    low, high = (-max(map(abs, ends)), max(map(abs, ends))) if signed else ends
    if high <= low:
        return np.where(np.isnan(m), m, np.zeros_like(m))
    found: NDArray[Any] = m / high if signed else (m - low) / (high - low)
    return found


def global_max(frames: Values) -> NDArray[Any]:
    """Divide all frames by the maximum of the last one, the sum over all blocks, so that frames compare.

    Args:
        frames: (blocks, h, w) cumulative, non-negative maps, NaN outside.

    Returns:
        (blocks, h, w), the last frame's maximum being 1; zeros where that maximum is not positive.

    Raises:
        FlatMapError: a value is infinite.
    """
    limits(frames)
    _, high = limits(frames[-1])
    return scaled(as_array(frames), (0.0, max(high, 0.0)), signed=True)


def daam_display(flow: Values) -> NDArray[Any]:
    """Show DAAM's flow as its paper does: sigmoid(5 m / gmax) - 0.5, min-max scaled frame by frame.

    gmax is the maximum of the last frame, the full sum, and the same for all. Because each frame is stretched
    to [0, 1] afterwards, brightness does NOT compare between frames; with `global_max` it does.

    Args:
        flow: (blocks, rows, cols) cumulative maps on the patch grid.

    Returns:
        (blocks, rows, cols) in [0, 1].

    Raises:
        FlatMapError: a value is infinite.

    Source: DAAM, arXiv 2503.14640, and its official implementation.
    """
    lifted = 1 / (1 + np.exp(-DAAM_SLOPE * global_max(flow))) - 0.5
    return np.stack([minmax(frame) for frame in lifted])


def daam_frames(flow: Values, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Render DAAM's flow to the grey frames of its official implementation, grey level for grey level.

    The order matters: `daam_display` on the patch grid, in float64; times 255 and rounded DOWN to whole grey
    levels, still on the grid; only then enlarged, bilinearly with half-pixel centres in 8-bit fixed point.

    Args:
        flow: (blocks, rows, cols) cumulative maps on the patch grid, finite.
        size: (h, w) of the frames in pixels.

    Returns:
        (blocks, h, w) uint8.

    Raises:
        FlatMapError: a value is not finite.

    Source: DAAM, arXiv 2503.14640, official display frames.
    """
    maps = as_array(flow).astype(np.float64)
    if not np.isfinite(maps).all():
        raise FlatMapError("the flow holds values that are not finite; pass it on the patch grid, before to_pixels")
    return _enlarge((daam_display(maps) * 255).astype(np.int64), size).astype(np.uint8)


def clipped(maps: Values, scale: Values) -> NDArray[Any]:
    """Cut the peaks off maps for a picture: at the `COLOURS_END` quantile of |`scale`|, such as the last frame's.

    Args:
        maps: raw values of any shape.
        scale: the raw values that set the end, without NaN.

    Returns:
        The shape of `maps`; unchanged where the quantile is 0.
    """
    values = as_array(maps)
    end = values.dtype.type(np.quantile(np.abs(as_array(scale)), COLOURS_END))
    return np.clip(values, -end, end) if end > 0 else values


def limits(m: Values) -> tuple[float, float]:
    """Find the smallest and the largest value inside the crop, (0, 0) where there is no inside.

    Raises:
        FlatMapError: a value is infinite.
    """
    values = as_array(m)
    low, high = (float(reduce(values, axis=None, initial=np.nan)) for reduce in (np.fmin.reduce, np.fmax.reduce))
    if np.isnan(low):
        return 0.0, 0.0
    if low == -np.inf or high == np.inf:
        raise FlatMapError("the map holds infinite values; compute it in float32 instead of half precision")
    return low, high


def _enlarge(grey: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Resize integer maps (b, rows, cols) bilinearly, as image libraries do for 8-bit pictures.

    Weights are multiples of 1/2048; products are shifted right before they are added, which is where the
    result differs from a float computation, by at most one grey level.
    """
    left, right, share_left, share_right = _taps(grey.shape[2], size[1])
    wide = grey[:, :, left] * share_left + grey[:, :, right] * share_right
    top, bottom, share_top, share_bottom = _taps(grey.shape[1], size[0])
    above = (share_top[:, None] * (wide[:, top] >> 4)) >> 16
    below = (share_bottom[:, None] * (wide[:, bottom] >> 4)) >> 16
    found: NDArray[np.int64] = (above + below + 2) >> 2
    return found


def _taps(cells: int, pixels: int) -> tuple[NDArray[np.int64], ...]:
    """Find the two neighbouring cells of every pixel along one axis, and their weights out of 2048."""
    position = (np.arange(pixels, dtype=np.float64) + 0.5) * (cells / pixels) - 0.5
    first = np.floor(position)
    weight = np.rint((position - first) * _UNIT).astype(np.int64)
    index = first.astype(np.int64)
    return np.clip(index, 0, cells - 1), np.clip(index + 1, 0, cells - 1), _UNIT - weight, weight
