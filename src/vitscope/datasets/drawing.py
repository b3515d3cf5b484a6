"""Shapes, patterns and noise: the few things that a drawn scene is made of.

A shape is a signed distance in its own unit coordinates (negative inside, 1 = the object's radius), so that its edge
is antialiased without supersampling; a pattern is a tone in [0, 1] in the same coordinates, so that it turns and
scales with the object.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # float32 of the coordinates' shape
Field = Callable[[Array, Array], Array]


def _disc(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 0.9


def _square(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - 0.8


def _triangle(x: Array, y: Array) -> Array:
    sides = [x * np.float32(np.cos(a)) + y * np.float32(np.sin(a)) for a in (np.pi / 2, np.pi * 7 / 6, np.pi * 11 / 6)]
    return np.maximum(np.maximum(sides[0], sides[1]), sides[2]) - 0.58


def _star(x: Array, y: Array, tip: float = 1.12, waist: float = 0.5, points: int = 5) -> Array:
    half = np.float32(np.pi / points)
    turn = np.abs(np.mod(np.arctan2(y, x), 2 * half) - half)  # 0 at a waist, `half` at a tip
    radius = np.hypot(x, y)
    along, across = radius * np.cos(half - turn), radius * np.sin(half - turn)
    # Signed distance to the edge that runs from the tip (on the axis) to the waist.
    edge = np.array([waist * np.cos(half) - tip, waist * np.sin(half)], dtype=np.float32)
    distance: Array = ((along - tip) * edge[1] - across * edge[0]) / np.float32(np.hypot(*edge))
    return distance


def _ring(x: Array, y: Array) -> Array:
    return np.abs(np.hypot(x, y) - 0.7) - 0.25


def _cross(x: Array, y: Array) -> Array:
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 1.0, y - 0.34), np.maximum(y - 1.0, x - 0.34))


SHAPES: dict[str, Field] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
}


def _plain(x: Array, y: Array) -> Array:
    return np.zeros_like(x)


def _striped(x: Array, y: Array) -> Array:
    return np.clip(0.5 + 2.5 * np.sin(x * np.float32(2 * np.pi * 1.9)), 0, 1)


def _dotted(x: Array, y: Array, pitch: float = 0.52, dot: float = 0.17) -> Array:
    # Every other row is shifted by half a pitch: dots, not a grid.
    row = np.floor(y / pitch)
    across = np.mod(x / pitch + 0.5 * np.mod(row, 2), 1) - 0.5
    along = y / pitch - row - 0.5
    return np.clip(0.5 + 6 * (dot - pitch * np.hypot(across, along)), 0, 1)


def _checked(x: Array, y: Array) -> Array:
    rate = np.float32(2 * np.pi * 1.15)
    return np.clip(0.5 + 3 * np.sin(x * rate) * np.sin(y * rate), 0, 1)


PATTERNS: dict[str, Field] = {"plain": _plain, "striped": _striped, "dotted": _dotted, "checked": _checked}

# Letters as strokes between points of the unit square, so that no font is needed and every machine draws the same.
LETTERS: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "A": (((-0.7, 1), (0, -1), (0.7, 1)), ((-0.4, 0.3), (0.4, 0.3))),
    "E": (((0.6, -1), (-0.6, -1), (-0.6, 1), (0.6, 1)), ((-0.6, 0), (0.4, 0))),
    "F": (((0.6, -1), (-0.6, -1), (-0.6, 1)), ((-0.6, 0), (0.4, 0))),
    "H": (((-0.6, -1), (-0.6, 1)), ((0.6, -1), (0.6, 1)), ((-0.6, 0), (0.6, 0))),
    "K": (((-0.6, -1), (-0.6, 1)), ((0.6, -1), (-0.6, 0), (0.6, 1))),
    "L": (((-0.5, -1), (-0.5, 1), (0.6, 1)),),
    "M": (((-0.8, 1), (-0.8, -1), (0, 0.2), (0.8, -1), (0.8, 1)),),
    "N": (((-0.6, 1), (-0.6, -1), (0.6, 1), (0.6, -1)),),
    "V": (((-0.7, -1), (0, 1), (0.7, -1)),),
    "W": (((-0.9, -1), (-0.45, 1), (0, -0.2), (0.45, 1), (0.9, -1)),),
    "Y": (((-0.7, -1), (0, 0), (0.7, -1)), ((0, 0), (0, 1))),
    "Z": (((-0.6, -1), (0.6, -1), (-0.6, 1), (0.6, 1)),),
}


def polyline(points: NDArray[Any], x: Array, y: Array) -> Array:
    """Distance of every coordinate to a line through `points` (n, 2)."""
    distance = np.full_like(x, np.inf)
    for (ax, ay), (bx, by) in itertools.pairwise(points):
        dx, dy = bx - ax, by - ay
        at = np.clip(((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
        distance = np.minimum(distance, np.hypot(x - ax - at * dx, y - ay - at * dy))
    return distance.astype(np.float32)


def letter(name: str, x: Array, y: Array) -> Array:
    """Distance to the strokes of a letter, in its unit coordinates."""
    strokes = [polyline(np.array(stroke, dtype=np.float32), x, y) for stroke in LETTERS[name]]
    return np.minimum.reduce(strokes)


def blob(waves: NDArray[Any], x: Array, y: Array) -> Array:
    """A rounded shape of no name: radius 0.8, swaying with `waves` (n, 2) = amplitude and phase of 2, 3, ... lobes."""
    angle = np.arctan2(y, x)
    radius = np.full_like(x, 0.8)
    for lobes, (amplitude, phase) in enumerate(waves, start=2):
        radius += np.float32(amplitude) * np.cos(lobes * angle + np.float32(phase))
    return np.hypot(x, y) - radius


@lru_cache(maxsize=8)
def _frequencies(size: int) -> NDArray[np.float64]:
    radius: NDArray[np.float64] = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    radius[0, 0] = np.inf  # no mean
    return radius


def noise(rng: np.random.Generator, size: int, exponent: float) -> Array:
    """1/f noise: (size, size) of mean 0 and standard deviation 1 whose amplitude falls with frequency ** exponent."""
    spectrum = _frequencies(size) ** -exponent * np.exp(2j * np.pi * rng.random((size, size // 2 + 1)))
    field = np.fft.irfft2(spectrum, s=(size, size))
    return np.asarray(field / max(float(field.std()), 1e-12), dtype=np.float32)
