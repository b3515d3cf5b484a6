"""Synthetic CT with nodules whose every property is known: the truth that a real scan does not have.

Lengths are in mm, attenuation is in Hounsfield units (HU), axes are z y x. Nothing here imitates a disease: a nodule is
a ball with bumps, spikes, a soft or sharp edge and a filling, each drawn by itself and independently of the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.floating]
Point = tuple[float, float, float]

LUNG, VESSEL, SOFT, GROUND_GLASS, CALCIUM = -850.0, -60.0, 40.0, -620.0, 650.0
"""Attenuation of what is drawn, in HU."""

SMALLEST, LARGEST = 7.0, 20.0
"""Diameters of the nodules' bodies, in mm."""

SPIKES, SPIKE_LENGTH, SPIKE_WIDTH = 70, 6.0, 0.85
"""How many spikes a spiculated nodule has, how far they reach at most, and half their width at the root, in mm."""


@dataclass(frozen=True)
class Nodule:
    """What is drawn. Shares run from 0 to 1.

    Attributes:
        centre: in the volume, in mm from the centre of its first voxel.
        diameter: of the body, without bumps and spikes, in mm.
        spiculation: length of the spikes, as a share of `SPIKE_LENGTH`.
        lobulation: height of the bumps.
        margin: 0 fades into the lung, 1 has a sharp edge.
        texture: 0 is filled with ground glass, 1 with soft tissue.
        calcified: whether there is calcium in the middle.
        seed: of where bumps and spikes sit.
    """

    centre: Point
    diameter: float
    spiculation: float
    lobulation: float
    margin: float
    texture: float
    calcified: bool
    seed: int

    @property
    def malignancy(self) -> float:
        """From 1 to 5: by the spikes, and a little by the size; by nothing else, which is what maps are held to."""
        size = (self.diameter - SMALLEST) / (LARGEST - SMALLEST)
        return 1 + 3 * self.spiculation + size

    def body(self, offsets: Array) -> Array:
        """How deep below the body's surface points lie, in mm along the radius, negative outside; spikes not counted.

        Args:
            offsets: (... 3) points relative to the centre.
        """
        radius = np.linalg.norm(offsets, axis=-1)
        return self._surface(_directions(offsets, radius)) - radius

    def draw(self, offsets: Array, background: Array) -> Array:
        """The attenuation (...) of points relative to the centre (... 3), over the lung's own (...)."""
        radius = np.linalg.norm(offsets, axis=-1)
        directions = _directions(offsets, radius)
        depth = self._surface(directions) - radius
        body = _step(depth / (0.25 + 1.5 * (1 - self.margin)))
        hu = background + (self._filling(offsets) - background) * body
        hu = hu + (VESSEL - hu) * self._spikes(radius, directions, depth) * (1 - body)
        if self.calcified:
            lump = 0.16 * self.diameter + 0.6 - radius
            hu = hu + (CALCIUM - hu) * _step(lump / 0.4)
        return hu

    def _surface(self, directions: Array) -> Array:
        """The body's radius in directions (... 3)."""
        lobes = _spread(7, np.random.default_rng([self.seed, 1]))
        bumps = np.exp(9 * (directions @ lobes.T - 1)).sum(axis=-1) - 0.39
        return self.diameter / 2 * (1 + 0.4 * self.lobulation * bumps)

    def _spikes(self, radius: Array, directions: Array, depth: Array) -> Array:
        """How much of a spike is at points, 0 to 1: thin cones that stand on the surface."""
        rng = np.random.default_rng([self.seed, 2])
        axes = _spread(SPIKES, rng)
        reach = (SPIKE_LENGTH * self.spiculation * rng.uniform(0.6, 1.0, SPIKES)).astype(np.float32)
        out = np.zeros_like(radius)
        near = (depth < 1.5) & (depth > -SPIKE_LENGTH - 1)
        cosines = directions[near] @ axes.T
        nearest = cosines.argmax(axis=-1)
        cosine = np.minimum(np.take_along_axis(cosines, nearest[:, None], axis=-1)[:, 0], 1)
        aside = radius[near] * np.sqrt(1 - cosine**2)
        along = 1 + depth[near] / np.maximum(reach[nearest], 1e-3)  # 1 at the root, 0 at the tip
        width = SPIKE_WIDTH * np.clip(along, 0, 1)
        out[near] = _step((width - aside) / 0.3) * (along > 0)
        return out

    def _filling(self, offsets: Array) -> Array:
        """The inside: between ground glass and soft tissue, with grain, more of it in ground glass."""
        rng = np.random.default_rng([self.seed, 3])
        waves, phases = rng.normal(0, 1.6, (6, 3)), rng.uniform(0, 2 * np.pi, 6)
        grain = np.sin(offsets @ waves.T.astype(np.float32) + phases.astype(np.float32)).sum(axis=-1) / 6
        return GROUND_GLASS + (SOFT - GROUND_GLASS) * self.texture + 120 * (1 - self.texture) * grain


@dataclass(frozen=True)
class Scan:
    """A slab of lung, and the nodules in it.

    Attributes:
        shape: voxels z y x.
        spacing: their size in mm, z y x.
        nodules: what is drawn into it.
        seed: of vessels and noise.
    """

    shape: tuple[int, int, int]
    spacing: Point
    nodules: tuple[Nodule, ...]
    seed: int

    def render(self) -> NDArray[np.int16]:
        """The attenuation of every voxel, (z y x), in HU."""
        rng = np.random.default_rng([self.seed, 4])
        volume = LUNG + 45 * _smooth_noise(rng, self.shape, self.spacing, 4.0)
        vessels(volume, self.spacing, rng)
        for nodule in self.nodules:
            reach = nodule.diameter * 0.75 + SPIKE_LENGTH * nodule.spiculation + 2.5
            where, offsets = self.around(nodule, reach)
            near = (offsets**2).sum(axis=-1) < reach**2
            volume[where][near] = nodule.draw(offsets[near], volume[where][near])
        volume += 22 * rng.standard_normal(self.shape, dtype=np.float32)
        return np.clip(np.round(volume), -1024, 3071).astype(np.int16)

    def around(self, nodule: Nodule, reach: float) -> tuple[tuple[slice, ...], Array]:
        """The voxels within `reach` mm of a nodule's centre, and where they lie relative to it, (z y x 3)."""
        where, ticks = [], []
        for centre, step, count in zip(nodule.centre, self.spacing, self.shape, strict=True):
            low, high = max(0, int((centre - reach) / step)), min(count, int((centre + reach) / step) + 2)
            where.append(slice(low, high))
            ticks.append(np.arange(low, high) * step - centre)
        return tuple(where), np.stack(np.meshgrid(*ticks, indexing="ij"), axis=-1).astype(np.float32)


def vessels(volume: Array, spacing: Point, rng: np.random.Generator, count: int = 14) -> None:
    """Draw vessels into a volume: bent tubes of soft tissue, 0.6 to 1.8 mm in radius, anywhere."""
    size = np.array(volume.shape) * spacing
    for _ in range(count):
        point, heading = rng.uniform(0, size), rng.normal(size=3)
        heading /= np.linalg.norm(heading)
        radius = rng.uniform(0.6, 1.8)
        for _ in range(60):
            heading += 0.12 * rng.normal(size=3)
            heading /= np.linalg.norm(heading)
            point = point + heading
            if (point < -3).any() or (point > size + 3).any():
                break
            low = np.maximum(0, np.floor((point - radius - 1.5) / spacing)).astype(int)
            high = np.minimum(volume.shape, np.ceil((point + radius + 1.5) / spacing) + 1).astype(int)
            if (high <= low).any():
                continue
            z, y, x = (np.arange(a, b) * s - p for a, b, s, p in zip(low, high, spacing, point, strict=True))
            away = np.sqrt(z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2)
            part = volume[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
            np.maximum(part, LUNG + (VESSEL - LUNG) * _step((radius - away) / 0.35), out=part)


def random_scan(seed: int, nodules: int = 4, side: float = 76.0, depth: float = 40.0) -> Scan:
    """A slab with `nodules` of independent, evenly spread properties, one a quarter of it.

    Args:
        seed: of everything.
        nodules: 1 to 4.
        side, depth: the slab's size in mm, across and along the patient.
    """
    rng = np.random.default_rng([seed, 5])
    across, along = rng.uniform(0.65, 0.85), rng.choice([1.0, 1.25, 2.0])
    shape = (int(depth / along), int(side / across), int(side / across))
    made = []
    for place in range(nodules):
        quarter = np.array([0.5, 0.27 + 0.46 * (place // 2), 0.27 + 0.46 * (place % 2)])
        centre = quarter * (depth, side, side) + rng.uniform(-1.5, 1.5, 3)
        made.append(
            Nodule(
                centre=tuple(centre.tolist()),
                diameter=float(rng.uniform(SMALLEST, LARGEST)),
                spiculation=float(rng.uniform()),
                lobulation=float(rng.uniform()),
                margin=float(rng.uniform()),
                texture=float(rng.uniform()),
                calcified=bool(rng.uniform() < 0.4),
                seed=int(rng.integers(1 << 30)),
            )
        )
    return Scan(shape, (float(along), float(across), float(across)), tuple(made), seed)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], spacing: Point, length: float) -> Array:
    """Noise (shape) of unit variance that is alike within `length` mm."""
    noise = ndimage.gaussian_filter(
        rng.standard_normal(shape, dtype=np.float32), [length / step / 2 for step in spacing]
    )
    return (noise - noise.mean()) / noise.std()


def _directions(offsets: Array, radius: Array) -> Array:
    return offsets / np.maximum(radius, 1e-6)[..., None]


def _spread(count: int, rng: np.random.Generator) -> Array:
    """Directions (count 3) spread evenly over the sphere, turned and shaken at random."""
    index = np.arange(count) + 0.5
    up, turn = 1 - 2 * index / count, np.pi * (1 + 5**0.5) * index
    flat = np.sqrt(1 - up**2)
    points = np.stack([up, flat * np.cos(turn), flat * np.sin(turn)], axis=1)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    points = points @ rotation + 0.6 / np.sqrt(count) * rng.normal(size=(count, 3))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def _step(value: Array) -> Array:
    """From 0 far below zero to 1 far above."""
    return 1 / (1 + np.exp(-np.clip(2.2 * value, -50, 50)))
