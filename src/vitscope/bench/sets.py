"""Values of a whole set from a metric's state, with intervals: the state is made again of every draw of images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vitscope.bench.names import Computation
from vitscope.bench.rows import VALUE, Block
from vitscope.bench.statistics import draws
from vitscope.errors import MetricError
from vitscope.metrics import Curve, Result, result_of

MOST_RESAMPLES, LEAST_RESAMPLES = 1000, 200
WORK = 1_000_000_000
"""Numbers that all draws of one method may read; beyond, there are fewer draws, and never less than the least."""


@dataclass(frozen=True, eq=False)
class SetValues:
    """What one method's state gives.

    Attributes:
        values: full name -> the value; empty where the state gives none.
        drawn: full name -> (r) the same of every draw, NaN where the state gives none; empty without values.
        n: images.
        note: why there is no value or no interval, or "".
    """

    values: Mapping[str, float]
    drawn: Mapping[str, NDArray[np.float64]]
    n: int
    note: str = ""


def fold_key(image: str) -> int:
    """A whole number of an image's name alone, by which a set is split in folds."""
    return int.from_bytes(hashlib.blake2b(image.encode(), digest_size=8).digest(), "big") >> 1


def set_values(
    found: Computation, block: Block, method: int, images: Sequence[str], resamples: int, seed: int = 0
) -> SetValues:
    """The state's values of one method, over the images of which every row that it may read has a value.

    All methods see the same draws of images, so that their draws compare.

    Args:
        found: a metric with values over a set.
        block: its rows.
        method: which.
        images: all names.
        resamples: how many draws are wanted.
        seed: of the draws.
    """
    needed = found.summed
    if not needed and found.without:
        return SetValues({}, {}, 0, "no image has a value")
    if not needed:
        return SetValues({}, {}, 0, "needs rows that this run did not keep; run again with the curves")
    there = np.all([block.known[name][method] == VALUE for name in needed], axis=0)
    present = np.flatnonzero(there)
    columns = {name: torch.from_numpy(block.values[name][method, present]) for name in needed}
    assert found.metric is not None
    whole = result_of(found.metric, columns)
    keys = np.array([fold_key(images[place]) for place in present.tolist()], dtype=np.int64)
    try:
        values = _of_state(found, whole, keys)
    except (MetricError, KeyError) as error:
        return SetValues({}, {}, len(present), str(error))
    if len(present) < 2:
        return SetValues(values, {}, len(present), "one image has no interval")
    some = min(resamples, MOST_RESAMPLES, max(LEAST_RESAMPLES, WORK // (len(present) * len(needed))))
    place_of = np.full(len(images), -1)
    place_of[present] = np.arange(len(present))
    drawn: dict[str, list[float]] = {name: [] for name in values}
    for several in draws(len(images), some, seed):
        for draw in several:
            chosen = place_of[draw]
            again = _values_of_draw(found, whole, keys, chosen[chosen >= 0])
            for name in drawn:
                drawn[name].append(again.get(name, np.nan))
    arrays = {name: np.array(array) for name, array in drawn.items()}
    failing = float(np.mean([np.isnan(array).mean() for array in arrays.values()]))
    note = "" if failing < 0.05 else f"no interval: the state gives nothing on {failing:.0%} of the draws"
    return SetValues(values, {} if note else arrays, len(present), note)


def _values_of_draw(
    found: Computation, whole: Result, keys: NDArray[np.int64], chosen: NDArray[np.int64]
) -> dict[str, float]:
    # numpy gathers on one thread: for arrays this small, waking others costs more than they do.
    curves = {name: Curve(curve.x, torch.from_numpy(curve.y.numpy()[chosen])) for name, curve in whole.curves.items()}
    parts = {name: torch.from_numpy(part.numpy()[chosen]) for name, part in whole.parts.items()}
    try:
        return _of_state(found, Result(curves=curves, parts=parts), keys[chosen])
    except MetricError:
        return {}


def _of_state(found: Computation, result: Result, keys: NDArray[np.int64]) -> dict[str, float]:
    """By full name."""
    state = found.metric.state()  # type: ignore[union-attr]
    state.update(result, keys.tolist())
    return {f"{found.group}/{name}{found.ends}": float(value) for name, value in state.compute().items()}
