"""Palettes: a perceptual sequential one for magnitudes, a diverging one centred on zero for signed maps."""

from __future__ import annotations

from functools import lru_cache

import matplotlib
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vitscope.arrays import as_array
from vitscope.errors import VitscopeError, nearest

SEQUENTIAL = "inferno"
"""Unsigned maps: lightness grows evenly with the value, also in grey print and for colour-blind eyes."""

DIVERGING = "RdBu_r"
"""Signed maps: red speaks for the target, blue against it, near-white is zero; safe for colour-blind eyes."""

OUTSIDE = (128, 128, 128)
"""What `colour` gives for NaN; `overlay` covers it with the hatched photograph."""

_STEPS = 257  # odd, so that zero has an entry of its own in the middle


def colour(values: Tensor | NDArray[np.floating], signed: bool, palette: str | None = None) -> NDArray[np.uint8]:
    """Colour a normalised map.

    Args:
        values: (h, w) in [0, 1], or in [-1, 1] where signed; what lies beyond is clipped, NaN is `OUTSIDE`.
        signed: whether zero is the centre of the scale.
        palette: the name of a matplotlib palette; None takes `SEQUENTIAL` or `DIVERGING`.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        VitscopeError: no palette has this name.
    """
    plain = as_array(values)
    share = (plain + 1) / 2 if signed else plain
    index = np.rint(np.clip(np.nan_to_num(share), 0, 1) * (_STEPS - 1)).astype(np.int16)
    picture: NDArray[np.uint8] = table_of(name_of(signed, palette))[index]
    picture[np.isnan(plain)] = OUTSIDE
    return picture


def name_of(signed: bool, palette: str | None) -> str:
    """The palette's name; None takes the house's."""
    return palette or (DIVERGING if signed else SEQUENTIAL)


@lru_cache(maxsize=16)
def table_of(name: str) -> NDArray[np.uint8]:
    """The 257 colours of a palette, (257, 3) uint8."""
    if name not in matplotlib.colormaps:
        known = list(matplotlib.colormaps)
        raise VitscopeError(f"no palette is called {name!r}{nearest(name, known)}; pass a matplotlib palette's name")
    colours = matplotlib.colormaps[name].resampled(_STEPS)(np.linspace(0.0, 1.0, _STEPS))
    table: NDArray[np.uint8] = np.round(np.asarray(colours)[:, :3] * 255).astype(np.uint8)
    table.flags.writeable = False
    return table
