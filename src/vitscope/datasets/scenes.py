"""A small world with exact truth: drawn scenes of twelve kinds of thing, deterministic in their seed.

A class is a colour family, a pattern and a shape, and no one of them tells it: every hue belongs to two classes, every
shape to two, every pattern to three. Three hues share their pattern too, so that only the shape is left to tell
their two classes apart. Around the things: 1/f noise in varied colours, and distractors that are no class (strokes,
blobs, letters) in every colour.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal, get_args, overload

import numpy as np
from numpy.typing import NDArray

from vitscope.datasets.drawing import LETTERS, PATTERNS, SHAPES, Array, blob, letter, noise, polyline
from vitscope.errors import ImageError

SIZE = 96
PATIENCE = 20

HUES: dict[str, float] = {"red": 0, "yellow": 50, "green": 120, "cyan": 182, "blue": 228, "magenta": 300}


@dataclass(frozen=True)
class Kind:
    """A class of thing: what its colour, pattern and shape are."""

    hue: str
    pattern: str
    shape: str

    def __str__(self) -> str:
        return f"{self.hue} {self.pattern} {self.shape}"


KINDS: tuple[Kind, ...] = tuple(
    Kind(*words.split())
    for words in (
        "red striped disc",
        "red striped star",
        "yellow dotted star",
        "yellow plain square",
        "green checked square",
        "green checked triangle",
        "cyan plain triangle",
        "cyan striped cross",
        "blue dotted cross",
        "blue dotted ring",
        "magenta checked ring",
        "magenta plain disc",
    )
)
CLASSES: tuple[str, ...] = tuple(str(kind) for kind in KINDS)

SceneKind = Literal["one", "several", "two", "none"]


@dataclass(frozen=True)
class Individual:
    """One thing that may be seen in several scenes: what stays when place, size, turn and light change.

    label: its class. colour, second: the two tones (3,) float32 in [0, 1]. aspect: width over height.
    """

    label: int
    colour: Array
    second: Array
    aspect: float

    @classmethod
    def of(cls, rng: np.random.Generator, label: int) -> Individual:
        """A new one of a class: its own hue within the family, its own tones and proportions."""
        hue = HUES[KINDS[label].hue] + rng.uniform(-9, 9)
        colour = _colour(hue, rng.uniform(0.62, 0.95), rng.uniform(0.65, 1))
        second = colour * np.float32(0.35) if rng.random() < 0.5 else colour * np.float32(0.25) + np.float32(0.72)
        return cls(label, colour, second, rng.uniform(0.85, 1.18))


@dataclass(frozen=True)
class Instance:
    """One thing in a scene: its class, its visible pixels (H, W) bool, and how much of it is visible (0 to 1)."""

    label: int
    mask: NDArray[np.bool_]
    visible: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the visible pixels; right and bottom are exclusive."""
        return box_of(self.mask)


@dataclass(frozen=True)
class Scene:
    """A picture and its truth.

    image: (H, W, 3) uint8. instances: the things in it. mark: the planted shortcut's pixels (H, W) bool, or None.
    """

    image: NDArray[np.uint8]
    instances: tuple[Instance, ...]
    mark: NDArray[np.bool_] | None
    name: str

    @property
    def labels(self) -> tuple[int, ...]:
        """The classes that are in the picture, each once, ascending."""
        return tuple(sorted({instance.label for instance in self.instances}))

    def mask(self, label: int | None = None) -> NDArray[np.bool_]:
        """Visible pixels (H, W) of one class, or of all things."""
        wanted = [one.mask for one in self.instances if label is None or one.label == label]
        return np.logical_or.reduce(wanted) if wanted else np.zeros(self.image.shape[:2], dtype=bool)

    def label_map(self) -> NDArray[np.uint8]:
        """(H, W): 0 where there is no thing, else the thing's class + 1."""
        out = np.zeros(self.image.shape[:2], dtype=np.uint8)
        for instance in self.instances:
            out[instance.mask] = instance.label + 1
        return out


@dataclass(frozen=True)
class Knobs:
    """What makes a scene harder.

    contrast: opacity of the things, 1 = as drawn, 0.3 = hardly there.
    clutter: how many distractors, as a multiple of the ordinary zero to three.
    occlusion: share of every thing that something grey is put in front of, 0 to 0.8.
    shortcut: the class that a small mark in the top left corner goes with; None draws no mark.
    mark_rate: share of that class's pictures that carry the mark (0.0 to 1.0).
    stray_rate: share of the other pictures that carry it.
    """

    contrast: float = 1.0
    clutter: float = 1.0
    occlusion: float = 0.0
    shortcut: int | None = None
    mark_rate: float = 1.0
    stray_rate: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (("contrast", 0.05, 1), ("clutter", 0, 10), ("occlusion", 0, 0.8)):
            if not low <= getattr(self, name) <= high:
                raise ImageError(
                    f"{name}={getattr(self, name)} is outside {low} to {high}; give a number in that range"
                )
        for name in ("mark_rate", "stray_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ImageError(f"{name}={getattr(self, name)} is no share; give a number from 0 to 1")
        if self.shortcut is not None and not 0 <= self.shortcut < len(KINDS):
            raise ImageError(f"shortcut={self.shortcut} is no class; give 0 to {len(KINDS) - 1}")


class Scenes:
    """`count` scenes of one kind: a sequence in which scene i depends on seed, kind, knobs and i, and on nothing else.

    Example:
        >>> scene = Scenes(100, "two", seed=7)[3]
        >>> scene.image.shape, [CLASSES[label] for label in scene.labels]
        ((96, 96, 3), ['yellow plain square', 'magenta checked ring'])
        >>> bool(scene.mask(scene.labels[0]).any())
        True

    kind: "one" thing; "several" = two or three of one class; "two" = two things of two classes; "none".
    """

    def __init__(self, count: int, kind: SceneKind = "one", *, seed: int = 0, knobs: Knobs | None = None) -> None:
        if kind not in get_args(SceneKind):
            raise ImageError(f"kind={kind!r} is no kind of scene; give one of {', '.join(get_args(SceneKind))}")
        if count < 0 or seed < 0:
            raise ImageError(f"count={count} and seed={seed} must not be negative")
        self.count, self.kind, self.seed, self.knobs = count, kind, seed, knobs or Knobs()

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Scene]:
        return (self[i] for i in range(self.count))

    @overload
    def __getitem__(self, index: int) -> Scene: ...
    @overload
    def __getitem__(self, index: slice) -> list[Scene]: ...
    def __getitem__(self, index: int | slice) -> Scene | list[Scene]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.count))]
        place = index + self.count if index < 0 else index
        if not 0 <= place < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        rng = np.random.default_rng([self.seed, get_args(SceneKind).index(self.kind), place])
        things = [Individual.of(rng, label) for label in _labels(rng, self.kind)]
        return draw(rng, things, self.knobs, name=f"{self.kind}-{self.seed}-{place}")


def draw(rng: np.random.Generator, things: Sequence[Individual], knobs: Knobs | None = None, name: str = "") -> Scene:
    """A scene with these things in it, everything else drawn from the generator.

    It is redrawn while too little is seen of a thing; after `PATIENCE` times, with narrower bars in front each time.
    """
    knobs = knobs or Knobs()
    labels = [thing.label for thing in things]
    for attempt in count():
        occlusion = knobs.occlusion * 0.95 ** max(0, attempt - PATIENCE)
        canvas = _Canvas(rng, SIZE)
        canvas.background()
        distractors = rng.poisson(1.5 * knobs.clutter)
        in_front = rng.random(distractors) < 0.2
        for _ in range(int((~in_front).sum())):
            canvas.distractor(scale=1.0)
        places = canvas.things(things, knobs.contrast)
        for _ in range(int(in_front.sum())):
            canvas.distractor(scale=0.5)
        for x, y, radius in places if occlusion else ():
            canvas.occluder(x, y, radius, occlusion)
        if all(share > max(0.45 - knobs.occlusion, 0.1) for share in canvas.visible()):
            break
    marked = knobs.shortcut is not None and rng.random() < (
        knobs.mark_rate if knobs.shortcut in labels else knobs.stray_rate
    )
    instances = tuple(
        Instance(label, canvas.owner == i, share)
        for i, (label, share) in enumerate(zip(labels, canvas.visible(), strict=True))
    )
    scene = Scene(canvas.develop(), instances, None, name)
    return with_mark(scene) if marked else scene


def with_mark(scene: Scene) -> Scene:
    """The same picture with the shortcut's mark in its corner: to ask whether a model falls for it.

    The mark is a small black and white target, 7 x 7 pixels, two from the top left corner.
    """
    y, x = np.indices(scene.image.shape[:2])
    ring = np.maximum(np.abs(x - 5), np.abs(y - 5))
    mark = ring <= 3
    image = scene.image.copy()
    image[mark] = np.where(ring[mark] % 2 == 1, 248, 8)[:, None]
    instances = tuple(_without(one, mark) for one in scene.instances)
    return replace(scene, image=image, instances=instances, mark=mark)


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive) of a mask's pixels; ImageError where it has none."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise ImageError("an empty mask has no box; look at the instance's `visible` first")
    return int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1


def _labels(rng: np.random.Generator, kind: SceneKind) -> list[int]:
    if kind == "none":
        return []
    if kind == "two":
        return [int(label) for label in rng.choice(len(KINDS), size=2, replace=False)]
    return [int(rng.integers(len(KINDS)))] * (1 if kind == "one" else int(rng.integers(2, 4)))


def _without(instance: Instance, hidden: NDArray[np.bool_]) -> Instance:
    mask = instance.mask & ~hidden
    return replace(
        instance, mask=mask, visible=instance.visible * float(mask.sum()) / max(float(instance.mask.sum()), 1)
    )


class _Canvas:
    """A picture under way: colours in [0, 1], and which instance owns every pixel (-1 = none)."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng, self.size = rng, size
        self.image: Array = np.zeros((size, size, 3), dtype=np.float32)
        self.owner = np.full((size, size), -1, dtype=np.int8)
        self.drawn: list[int] = []  # pixels of every instance before anything was put in front of it
        self.y, self.x = np.mgrid[:size, :size].astype(np.float32)

    def background(self) -> None:
        """1/f noise between three colours of small saturation."""
        rng = self.rng
        colours = [_colour(rng.random() * 360, rng.uniform(0, 0.45), rng.uniform(0.2, 0.95)) for _ in range(3)]
        tint = 1 / (1 + np.exp(-1.5 * noise(rng, self.size, rng.uniform(1.0, 1.8))))[..., None]
        light = noise(rng, self.size, rng.uniform(0.8, 1.5))[..., None]
        self.image[:] = colours[0] * tint + colours[1] * (1 - tint)
        self.image += rng.uniform(0.02, 0.11) * light * (0.5 + colours[2])

    def things(self, things: Sequence[Individual], contrast: float) -> list[tuple[float, float, float]]:
        """Every thing at a place, size and turn of its own; returns their centres and radii in pixels."""
        rng = self.rng
        places: list[tuple[float, float, float]] = []
        for i, thing in enumerate(things):
            radius = rng.uniform(14, 27) if len(things) == 1 else rng.uniform(12, 20)
            x, y = self._place(radius, places)
            places.append((x, y, radius))
            u, v = self._turned(x, y, radius, rng.random() * 2 * np.pi, thing.aspect)
            kind = KINDS[thing.label]
            tone = PATTERNS[kind.pattern](u, v)[..., None]
            slope = rng.random() * 2 * np.pi
            shade = 1 + rng.uniform(0, 0.3) * (u * np.float32(np.cos(slope)) + v * np.float32(np.sin(slope)))[..., None]
            alpha = np.clip(0.5 - radius * SHAPES[kind.shape](u, v), 0, 1)
            self._blend(alpha, (thing.colour * (1 - tone) + thing.second * tone) * shade, contrast, owner=i)
            self.drawn.append(int((alpha >= 0.5).sum()))
        return places

    def distractor(self, scale: float) -> None:
        """A stroke, a blob or a letter, of any colour."""
        rng = self.rng
        x, y = rng.uniform(0, self.size, 2)
        radius = scale * rng.uniform(8, 20)
        u, v = self._turned(x, y, radius, rng.random() * 2 * np.pi, 1.0)
        colour = _colour(rng.random() * 360, rng.uniform(0.3, 0.95), rng.uniform(0.2, 1))
        choice = rng.integers(3)
        if choice == 0:
            points = np.cumsum(rng.normal(0, 0.8, (4, 2)), axis=0)
            distance = polyline(points - points.mean(axis=0), u, v) - rng.uniform(1.2, 3) / radius
        elif choice == 1:
            waves = np.stack([rng.uniform(0.05, 0.22, 3), rng.uniform(0, 2 * np.pi, 3)], axis=1)
            distance = blob(waves, u, v)
        else:
            name = str(rng.choice(list(LETTERS)))
            distance = letter(name, u, v) - rng.uniform(0.1, 0.22)
        self._blend(np.clip(0.5 - radius * distance, 0, 1), colour, 1.0, owner=-1)

    def occluder(self, x: float, y: float, radius: float, share: float) -> None:
        """A grey bar across the thing, as wide as the share of it that is to be hidden."""
        rng = self.rng
        u, v = self._turned(x, y, radius, rng.random() * 2 * np.pi, 1.0)
        bar = np.maximum(np.abs(v - rng.uniform(-0.5, 0.5) * (1 - share)) - share, np.abs(u) - 1.25)
        grey = _colour(rng.random() * 360, 0.08, rng.uniform(0.2, 0.9)) + 0.05 * noise(rng, self.size, 1)[..., None]
        self._blend(np.clip(0.5 - radius * bar, 0, 1), grey, 1.0, owner=-1)

    def visible(self) -> list[float]:
        """Share of every instance's pixels that nothing hides."""
        return [float((self.owner == i).sum()) / max(drawn, 1) for i, drawn in enumerate(self.drawn)]

    def develop(self) -> NDArray[np.uint8]:
        """Light from one side, exposure and sensor noise; then bytes."""
        rng = self.rng
        slope = rng.random() * 2 * np.pi
        side = (self.x * np.float32(np.cos(slope)) + self.y * np.float32(np.sin(slope))) / self.size
        lit = self.image * (rng.uniform(0.78, 1.12) * (1 + rng.uniform(0, 0.35) * (side - side.mean())))[..., None]
        grain = rng.normal(0, rng.uniform(0.004, 0.02), lit.shape).astype(np.float32)
        return np.asarray(np.clip((lit + grain) * 255 + 0.5, 0, 255), dtype=np.uint8)

    def _place(self, radius: float, placed: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
        """A centre inside the frame that leaves earlier things mostly free."""
        x = y = 0.0
        for _ in range(50):
            x, y = (float(at) for at in self.rng.uniform(0.85 * radius, self.size - 0.85 * radius, 2))
            if all(np.hypot(x - px, y - py) > 0.8 * (radius + pr) for px, py, pr in placed):
                break
        return x, y

    def _turned(self, x: float, y: float, radius: float, angle: float, aspect: float) -> tuple[Array, Array]:
        """The unit coordinates of a thing at (x, y), turned by `angle`, its width `aspect` times its height."""
        cos, sin = np.float32(np.cos(angle) / radius), np.float32(np.sin(angle) / radius)
        dx, dy = self.x - np.float32(x), self.y - np.float32(y)
        root = np.float32(np.sqrt(aspect))
        return (dx * cos + dy * sin) / root, (dy * cos - dx * sin) * root

    def _blend(self, alpha: Array, colour: Array | NDArray[np.float64], opacity: float, owner: int) -> None:
        cover = (alpha * np.float32(opacity))[..., None]
        self.image += cover * (colour - self.image)
        self.owner[alpha >= 0.5] = owner


def _colour(hue: float, saturation: float, value: float) -> Array:
    return np.array(colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value), dtype=np.float32)
