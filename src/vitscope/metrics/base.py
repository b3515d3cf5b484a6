"""What a metric is: facts, options, and one pure function of maps and truth, or of the model's output.

Four kinds, by what they need beyond one method's maps of one batch:

    map       maps and truth                                            MapMetric
    pair      the maps of two classes, and truth                        PairMetric
    forward   the model's output for altered pictures                   ForwardMetric   (`forwards.py` runs them)
    explain   maps of altered pictures, or of an altered model          `stability.py`, `sanity.py`

Axes: b images, t points of a curve, (H W) pixels of the model's input, (rows cols) the patch grid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vitscope.activation import Activation
from vitscope.errors import MetricError
from vitscope.images import Geometry

Kind = Literal["map", "pair", "forward", "explain"]
TruthKind = Literal["none", "mask", "boxes", "two masks", "label"]
Asked = Literal["explained", "predicted", "label", "second", "random", "object", "other object"]
"""The class whose map a metric asks for: that which the run explains; the predicted one, the true one, the second in
the model's order, a random other one; or the class of either thing in a picture of two."""
Whole = Literal["", "sanity", "mosaics"]
"""What a benchmark does for a metric with a part of a run as a whole: models of random weights, mosaics of pictures; ""
goes batch by batch."""


@dataclass(frozen=True)
class Facts:
    """What is known of one value that a metric gives.

    Attributes:
        name: group/name, without the parameter: "agcam/iou".
        title: in full.
        paper: where the protocol comes from.
        higher_is_better: or lower; None where it is neither.
        range: the least and the greatest possible value.
        truth: what must be known of a picture: nothing, a mask, boxes, two masks, or its true class.
        kind: see the module.
        over_set: whether it is one value for a set of pictures, given by the metric's state, in place of one a picture.
    """

    name: str
    title: str
    paper: str
    higher_is_better: bool | None
    range: tuple[float, float]
    truth: TruthKind
    kind: Kind
    over_set: bool = False

    @property
    def needs_model(self) -> bool:
        """Whether the model must run again, beyond the pass that gave the maps."""
        return self.kind in ("forward", "explain")


@dataclass(frozen=True)
class GridMaps:
    """One method's raw maps of a batch, and the pixels that they cover.

    Attributes:
        values: (b rows cols), raw; (b H W) is a grid too. NaN where nothing is known, on pixels alone.
        size: (H, W) of the model's input.
        window: top, left, height and width of the part of the input, in its pixels, that the grid covers: where the
            model itself shows its patches another part of the image than the whole. Pixels beyond it are 0.

    Raises:
        MetricError: not (b rows cols), or a value is infinite.
    """

    values: Tensor
    size: tuple[int, int]
    window: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or 0 in self.values.shape[1:]:
            raise MetricError(f"maps of shape {tuple(self.values.shape)} are none; give (b, rows, cols)")
        if bool(self.values.isinf().any()):
            raise MetricError("a map holds infinite values; compute it in float32 instead of half precision")
        if bool(self.values.isnan().any()) and tuple(self.values.shape[1:]) != self.size:
            raise MetricError("a map holds NaN, which cannot be enlarged; leave that image out, or give pixels")

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def bilinear(self) -> Tensor:
        """On the pixels, (b H W) float32, interpolated between patch centres (`align_corners=False`)."""
        return self._enlarged("bilinear")

    @cached_property
    def nearest(self) -> Tensor:
        """On the pixels, (b H W) float32, the patches as they are."""
        return self._enlarged("nearest")

    def pixels(self, mode: Literal["bilinear", "nearest"]) -> Tensor:
        """Either of the two; each is made once."""
        return self.bilinear if mode == "bilinear" else self.nearest

    def spread(self, values: Tensor, mode: Literal["bilinear", "nearest"]) -> Tensor:
        """Any values on the grid (b rows cols) on the pixels, (b H W); NaN beyond the window."""
        if self.window is None:
            return F.interpolate(values[:, None], self.size, mode=mode)[:, 0]
        geometry = Geometry(self.size, self.size, self.window)
        return torch.stack([geometry.to_original(one, mode) for one in values]).to(values.device)

    def _enlarged(self, mode: Literal["bilinear", "nearest"]) -> Tensor:
        values = self.values.detach().float()
        if tuple(values.shape[1:]) == tuple(self.size) and self.window is None:
            return values
        if self.window is not None:
            return self.spread(values, mode).nan_to_num(0.0)
        pixels = self.spread(values, mode)
        # Interpolation rounds: a constant map would be so no more, and scaling would make a picture of the rounding.
        low, high = values.flatten(1).aminmax(dim=1)
        return torch.where((low == high)[:, None, None], low[:, None, None], pixels)


@dataclass(frozen=True)
class Truth:
    """What is known of the pictures of a batch, on the pixels of the model's input. Each metric reads what it needs.

    Attributes:
        masks: (b H W) bool: the thing, or the union of its boxes painted.
        boxes: of each picture (k 4) whole numbers x0, y0, x1, y1, both ends included; see `regions.boxes_on_input`.
        others: (b H W) bool: the second thing, of another class.
        labels: (b) the true classes.
        ignored: (b H W) bool: pixels that no metric of segmentation counts, such as a boundary ring.
    """

    masks: Tensor | None = None
    boxes: Sequence[Tensor] | None = None
    others: Tensor | None = None
    labels: Tensor | None = None
    ignored: Tensor | None = None

    def need(self, part: Literal["masks", "boxes", "others", "labels"], metric: str) -> Any:
        """One of the parts.

        Raises:
            MetricError: it is not known.
        """
        found = getattr(self, part)
        if found is None:
            raise MetricError(f"{metric} needs the {part} of the pictures; use a dataset that has them")
        return found


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of a batch as the model takes them, for metrics that alter them.

    Attributes:
        tensor: (b 3 H W) normalised.
        patch: height and width of a patch in pixels, whole ones unless the model resizes its images itself.
        mean, std: a channel each, of pixels scaled to 0..1.
        explained: (b) the classes that the maps explain.
        labels: (b) the true classes, or None.
        keys: a whole number a picture, from its name: what is drawn at random for a picture depends on it and the
            metric's seed alone, never on the batch it is in.
        made: what was made of them and is used again, such as blurred copies; leave it empty.
        activation: what turns the model's outputs into probabilities, as of `Explainer.activation`.

    Raises:
        MetricError: the parts are not of one batch.
    """

    tensor: Tensor
    patch: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    explained: Tensor
    labels: Tensor | None = None
    keys: tuple[int, ...] = ()
    made: dict[Hashable, Tensor] = field(default_factory=dict, repr=False)
    activation: Activation = "softmax"

    def __post_init__(self) -> None:
        count = len(self.tensor)
        parts = {"explained": self.explained, "labels": self.labels, "keys": self.keys or None}
        wrong = [name for name, part in parts.items() if part is not None and len(part) != count]
        if self.tensor.ndim != 4 or wrong:
            raise MetricError(
                f"{count} pictures of shape {tuple(self.tensor.shape)} do not go with their {' and '.join(wrong)}; "
                "give (b, 3, H, W) and one of each a picture"
            )

    def __len__(self) -> int:
        return len(self.tensor)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.tensor.shape[-2], self.tensor.shape[-1]

    def classes(self, which: Literal["explained", "label"]) -> Tensor:
        """(b) the classes whose output is read.

        Raises:
            MetricError: the true classes are not known.
        """
        if which == "explained":
            return self.explained
        if self.labels is None:
            raise MetricError("this metric reads the true class, which is not known; use a dataset with labels")
        return self.labels

    def generators(self, seed: int, purpose: str) -> list[torch.Generator]:
        """A source of random numbers a picture, on the CPU, which its key, the seed and the purpose alone decide.

        Raises:
            MetricError: the pictures have no keys.
        """
        if not self.keys:
            raise MetricError("random alterations need a key a picture; give Pictures(keys=...), one number each")
        return [torch.Generator().manual_seed(_mixed(seed, key, purpose)) for key in self.keys]


@dataclass(frozen=True)
class Curve:
    """Values over a parameter.

    Attributes:
        x: (t) the parameter, the same for all pictures.
        y: (b t).
    """

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Result:
    """What a metric gives for one method on one batch.

    Attributes:
        values: name without group ("iou") -> (b) float64; NaN where the value is not defined for a picture.
        curves: name -> a curve a picture.
        parts: name -> (b) float64: no values of their own, but what the metric's state adds up.
    """

    values: Mapping[str, Tensor] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    parts: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        every = [*self.values.values(), *self.parts.values(), *(curve.y for curve in self.curves.values())]
        return len(every[0]) if every else 0

    @classmethod
    def join(cls, results: Sequence[Result]) -> Result:
        """One of several batches."""
        first = results[0]
        return cls(
            {name: torch.cat([one.values[name] for one in results]) for name in first.values},
            {
                name: Curve(curve.x, torch.cat([one.curves[name].y for one in results]))
                for name, curve in first.curves.items()
            },
            {name: torch.cat([one.parts[name] for one in results]) for name in first.parts},
        )


class Metric(Protocol):
    """A frozen dataclass whose fields are the metric's options.

    `parameter` names the option whose value stands after the @ of a value's name, "" for none. A metric that is not
    measured batch by batch says so by a class variable `whole`; see `Whole`.
    """

    facts: ClassVar[tuple[Facts, ...]]
    parameter: ClassVar[str]


class MapMetric(Metric, Protocol):
    """Of one method's maps and the truth."""

    def __call__(self, maps: GridMaps, truth: Truth) -> Result:
        """One value a picture."""
        ...


class PairMetric(Metric, Protocol):
    """Of one method's maps of two classes."""

    @property
    def asks(self) -> tuple[Asked, Asked]:
        """The two classes."""
        ...

    def __call__(self, first: GridMaps, second: GridMaps, truth: Truth) -> Result:
        """One value a picture."""
        ...


class State(Protocol):
    """What a set of pictures has given so far: sums, whose size does not grow with the set."""

    def update(self, result: Result, keys: Sequence[int] = ()) -> None:
        """Add a batch; the keys are the pictures', where the set is split by them."""
        ...

    def merge(self, other: State) -> None:
        """Add what another has seen, of other pictures."""
        ...

    def compute(self) -> dict[str, float]:
        """The values of the whole set, by name without group."""
        ...


def described(
    group: str,
    kind: Kind,
    truth: TruthKind,
    paper: str,
    values: Mapping[str, tuple[str, bool | None]],
    *,
    limits: tuple[float, float] = (0.0, 1.0),
    over_set: bool = False,
) -> tuple[Facts, ...]:
    """The facts of several values of a metric: name -> title, whether higher is better; the rest is as in `Facts`."""
    return tuple(
        Facts(f"{group}/{name}", title, paper, higher, limits, truth, kind, over_set)
        for name, (title, higher) in values.items()
    )


def _mixed(seed: int, key: int, purpose: str) -> int:
    """One 63-bit seed of three parts."""
    digest = hashlib.blake2b(repr((seed, key, purpose)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
