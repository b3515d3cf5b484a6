"""What a stream of results adds up to: thin states, whose size does not grow with the set. Each merges with another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vitscope.errors import MetricError
from vitscope.metrics.base import Result, State


@dataclass
class MaxOverThresholds:
    """MaxBoxAccV2 of a set, from each picture's curve of best box IoU (Choe et al. 2020, 2007.04178).

    Attributes:
        curve: the curve's name in the results.
        deltas: the IoUs to reach.
        reached: (d t) how many pictures reach each at each threshold.
        count: of pictures.
    """

    curve: str
    deltas: tuple[float, ...]
    reached: Tensor | None = None
    count: int = 0

    def update(self, result: Result, keys: Sequence[int] = ()) -> None:
        """Add a batch."""
        y = result.curves[self.curve].y
        added = torch.stack([(y >= delta).sum(dim=0) for delta in self.deltas])
        self.reached = added if self.reached is None else self.reached + added
        self.count += len(y)

    def merge(self, other: State) -> None:
        """Add what another has seen."""
        if not isinstance(other, MaxOverThresholds) or other.deltas != self.deltas:
            raise MetricError("states of different metrics do not merge; merge those of one metric")
        if other.reached is not None:
            self.reached = other.reached if self.reached is None else self.reached + other.reached
            self.count += other.count

    def compute(self) -> dict[str, float]:
        """MaxBoxAcc at each IoU, and their mean "v2".

        Raises:
            MetricError: no picture was seen.
        """
        if self.reached is None:
            raise MetricError("no picture was seen; update the state before it is computed")
        best = (self.reached.double() / self.count).amax(dim=1).tolist()
        return {f"{delta:g}": value for delta, value in zip(self.deltas, best, strict=True)} | {
            "v2": sum(best) / len(best)
        }


@dataclass
class MeanIoU:
    """Pixel accuracy and mean IoU of background and foreground, counted over all pixels of a set.

    Reads `hits`, `counted`, and intersection and union of both classes, as `ImageNetSegmentation` gives them.

    Source: Chefer et al. 2021 (2012.09838), section 4.2 and official code.
    """

    sums: dict[str, float] = field(default_factory=dict)

    PARTS = ("hits", "counted", "shared_thing", "joined_thing", "shared_rest", "joined_rest")

    def update(self, result: Result, keys: Sequence[int] = ()) -> None:
        """Add a batch."""
        for name in self.PARTS:
            self.sums[name] = self.sums.get(name, 0.0) + float(result.parts[name].sum())

    def merge(self, other: State) -> None:
        """Add what another has seen."""
        if not isinstance(other, MeanIoU):
            raise MetricError("states of different metrics do not merge; merge those of one metric")
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def compute(self) -> dict[str, float]:
        """ "set_pixel_accuracy", and "miou", the mean of both classes' IoU.

        Raises:
            MetricError: no picture was seen.
        """
        if not self.sums:
            raise MetricError("no picture was seen; update the state before it is computed")
        ious = [self.sums[f"shared_{part}"] / max(self.sums[f"joined_{part}"], 1.0) for part in ("thing", "rest")]
        return {"set_pixel_accuracy": self.sums["hits"] / max(self.sums["counted"], 1.0), "miou": sum(ious) / 2}


@dataclass
class BestOnOthers:
    """A curve's mean at the threshold that was chosen on other pictures, streamed.

    Pictures are split in `folds` by their keys; each fold is measured at the threshold that is best in all others.

    Attributes:
        curve: the curve's name in the results.
        folds: how many.
        sums: (f t) of the curves of each fold.
        counts: (f) of pictures.
    """

    curve: str
    folds: int = 2
    x: Tensor | None = None
    sums: Tensor | None = None
    counts: Tensor | None = None

    def update(self, result: Result, keys: Sequence[int] = ()) -> None:
        """Add a batch of pictures with these keys.

        Raises:
            MetricError: not a key a picture.
        """
        curve = result.curves[self.curve]
        if len(keys) != len(curve.y):
            raise MetricError("a threshold chosen on other images needs a key a picture; give as many as pictures")
        fold = torch.tensor(keys, dtype=torch.long) % self.folds
        sums = torch.zeros(self.folds, curve.y.shape[1], dtype=torch.float64).index_add_(0, fold, curve.y.double())
        self._add(curve.x, sums, torch.bincount(fold, minlength=self.folds))

    def merge(self, other: State) -> None:
        """Add what another has seen."""
        if not isinstance(other, BestOnOthers) or other.folds != self.folds:
            raise MetricError("states of different metrics do not merge; merge those of one metric")
        if other.x is not None and other.sums is not None and other.counts is not None:
            self._add(other.x, other.sums, other.counts)

    def compute(self) -> dict[str, float]:
        """ "best": the mean over pictures; "threshold": the mean of the thresholds taken.

        Raises:
            MetricError: fewer than two folds have pictures.
        """
        if self.x is None or self.sums is None or self.counts is None or int((self.counts > 0).sum()) < 2:
            raise MetricError("a threshold chosen on other images needs two folds; give more images")
        total = thresholds = 0.0
        for fold in (self.counts > 0).nonzero()[:, 0].tolist():
            best = int((self.sums.sum(dim=0) - self.sums[fold]).argmax())
            total += float(self.sums[fold, best])
            thresholds += float(self.x[best]) * int(self.counts[fold])
        count = int(self.counts.sum())
        return {"best": total / count, "threshold": thresholds / count}

    def _add(self, x: Tensor, sums: Tensor, counts: Tensor) -> None:
        self.x = x
        self.sums = sums if self.sums is None else self.sums + sums
        self.counts = counts if self.counts is None else self.counts + counts
