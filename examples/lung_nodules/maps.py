"""Maps of malignancy and of every biomarker, and what is measured on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from examples.lung_nodules.network import Trained
from examples.lung_nodules.nodules import View
from examples.lung_nodules.study import pictures
from vitscope.bench import Estimate
from vitscope.metrics import energy_in_mask, spearman
from vitscope.targets import Output

METHODS = ("cdam", "smooth_cdam", "integrated_cdam", "agcam", "daam")
"""Asked for every output."""

AGNOSTIC = ("attention", "random", "center", "frame")
"""One map a picture, whatever is asked; all but the attention know nothing of it."""

SIGNED = frozenset(("cdam", "smooth_cdam", "integrated_cdam"))

GROWN = 4.0
"""How far beyond the outline the nodule's neighbourhood reaches, in mm: the spikes, which readers do not outline."""

RIM, DEEP = 2.0, 2.5
"""The rim reaches so many mm inside of the outline (and `GROWN` outside); the core is deeper than `DEEP` mm."""

BATCH = 48

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps of views, by method and output; an agnostic method's output is "".

    Attributes:
        views: what was explained, n of them.
        outputs: the names of the model's outputs.
        grids: (n rows cols) raw, NaN where the method gave no map.
        pixels: the same on the views' pixels, (n SIDE SIDE).
        missing: how many maps there are not, by method and output.
    """

    views: tuple[View, ...]
    outputs: tuple[str, ...]
    grids: Mapping[tuple[str, str], Tensor]
    pixels: Mapping[tuple[str, str], Tensor]
    missing: Mapping[tuple[str, str], int]


@dataclass(frozen=True, eq=False)
class Regions:
    """Parts of views, each (n SIDE SIDE) bool, all from the readers' outlines and the pixels, none from what was drawn.

    Attributes:
        nodule: what the readers outlined.
        grown: the same with `GROWN` mm around it.
        rim: from `RIM` mm inside of the outline to `GROWN` mm outside.
        core: deeper than `DEEP` mm.
        calcium: the nodule's voxels that are bright as calcium.
    """

    nodule: Tensor
    grown: Tensor
    rim: Tensor
    core: Tensor
    calcium: Tensor

    @classmethod
    def of(cls, views: Sequence[View]) -> Regions:
        """Of views, whose pixels are 1 mm."""
        masks = np.stack([view.mask for view in views])
        inside = np.stack([ndimage.distance_transform_edt(mask) for mask in masks])
        outside = np.stack([ndimage.distance_transform_edt(~mask) for mask in masks])
        grown = outside <= GROWN
        parts = masks, grown, grown & (inside <= RIM), inside > DEEP, np.stack([view.calcium for view in views])
        return cls(*(torch.from_numpy(part) for part in parts))


def explain(
    trained: Trained,
    views: Sequence[View],
    outputs: Sequence[str] = (),
    progress: Callable[[int], object] = lambda done: None,
) -> Maps:
    """The maps of `METHODS` for outputs, and of `AGNOSTIC`, of views.

    Args:
        trained: the model.
        views: what is explained.
        outputs: by name, malignancy first; otherwise every one.
        progress: called with the views done.
    """
    outputs = tuple(outputs) or trained.names
    grids: dict[tuple[str, str], list[Tensor]] = {}
    pixels: dict[tuple[str, str], list[Tensor]] = {}
    for start in range(0, len(views), BATCH):
        part = views[start : start + BATCH]
        for key, (grid, pixel) in _explained(trained, part, outputs).items():
            grids.setdefault(key, []).append(grid)
            pixels.setdefault(key, []).append(pixel)
        progress(min(start + BATCH, len(views)))
    joined = {key: torch.cat(found) for key, found in grids.items()}
    missing = {key: int(found.isnan().flatten(1).any(dim=1).sum()) for key, found in joined.items()}
    return Maps(tuple(views), outputs, joined, {key: torch.cat(found) for key, found in pixels.items()}, missing)


def _explained(
    trained: Trained, views: Sequence[View], outputs: Sequence[str]
) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    """Of one batch; where a method gives no map of some picture, each picture is asked by itself."""
    images = pictures(views)
    targets = [Output(trained.names.index(name)) for name in outputs]
    specific = trained.explainer.each(images, METHODS, targets, strict=False)
    agnostic = trained.explainer(images, AGNOSTIC, strict=False)
    found: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
    failed = False
    for name, explanation in (*zip(outputs, specific, strict=True), ("", agnostic)):
        failed |= bool(explanation.failures)
        for method, attribution in explanation.attributions.items():
            found[method, name] = attribution.values, torch.stack(list(attribution.to_pixels()))
    if not failed:
        return found
    rows, columns = next(iter(found.values()))[0].shape[1:] if found else trained.explainer.anatomy.grid()
    blank = (torch.full((1, rows, columns), torch.nan), torch.full((1, *views[0].mask.shape), torch.nan))
    keys = [(method, name) for name in outputs for method in METHODS] + [(method, "") for method in AGNOSTIC]
    if len(views) == 1:
        return {key: found.get(key, blank) for key in keys}
    alone = [_explained(trained, [view], outputs) for view in views]
    return {
        key: found.get(key) or tuple(torch.cat([each[key][part] for each in alone]) for part in (0, 1))  # type: ignore[misc]
        for key in keys
    }


@dataclass(frozen=True, eq=False)
class Measured:
    """What is measured on maps, a value a nodule: the mean over its views; NaN where none has one.

    All masses are of absolute values: evidence against malignancy lies on the nodule as well.

    Attributes:
        nodules: their names, m of them.
        within: method, output -> share of the mass in the outline, (m).
        near: the same in the outline grown by `GROWN` mm.
        rim: share of the mass of rim and core that is on the rim, of views with a core.
        calcium: share of the mass on the calcium, of views that show some.
        agreement: method, biomarker -> Spearman's correlation of its map and malignancy's, (m).
    """

    nodules: tuple[str, ...]
    within: Mapping[tuple[str, str], Numbers]
    near: Mapping[tuple[str, str], Numbers]
    rim: Mapping[tuple[str, str], Numbers]
    calcium: Mapping[tuple[str, str], Numbers]
    agreement: Mapping[tuple[str, str], Numbers]


def measure(maps: Maps) -> Measured:
    """Hold the maps against the parts of the nodules, and against each other."""
    regions = Regions.of(maps.views)
    ids = [view.nodule.id for view in maps.views]
    names = tuple(dict.fromkeys(ids))
    place = np.array([names.index(name) for name in ids])
    sums: dict[str, dict[tuple[str, str], Numbers]] = {part: {} for part in ("within", "near", "rim", "calcium")}
    cored, calcified = regions.core.flatten(1).sum(1) >= 12, regions.calcium.flatten(1).sum(1) >= 4
    for key, pixels in maps.pixels.items():
        share = {
            part: _shares(pixels, getattr(regions, part)) for part in ("nodule", "grown", "rim", "core", "calcium")
        }
        with np.errstate(invalid="ignore"):
            rim = share["rim"] / (share["rim"] + share["core"])
        rim[~cored.numpy()] = np.nan
        share["calcium"][~calcified.numpy()] = np.nan
        for part, found in zip(sums, (share["nodule"], share["grown"], rim, share["calcium"]), strict=True):
            sums[part][key] = _by_nodule(found, place)
    agreement = {
        (method, name): _by_nodule(
            spearman(maps.grids[method, maps.outputs[0]].nan_to_num(0), maps.grids[method, name].nan_to_num(0)).numpy(),
            place,
        )
        for method in METHODS
        for name in maps.outputs[1:]
    }
    return Measured(names, agreement=agreement, **sums)


@dataclass(frozen=True)
class Expectation:
    """Something that must hold of the phantoms, if maps show what the model was taught; `text` says why.

    Attributes:
        name: in short.
        text: why it is expected.
        difference: of a method's measurements: a value a nodule, above 0 where it holds.
        off_middle: it is expected of the views that have the nodule off their middle.
    """

    name: str
    text: str
    difference: Callable[[Measured, str], Numbers]
    off_middle: bool = False


def _rims(name: str) -> Callable[[Measured, str], Numbers]:
    return lambda m, method: m.rim[method, "malignancy"] - m.rim[method, name]


def _agrees(name: str) -> Callable[[Measured, str], Numbers]:
    return lambda m, method: m.agreement[method, "spiculation"] - m.agreement[method, name]


EXPECTED = (
    Expectation(
        "malignancy: near the nodule, more than the centre",
        "share of the mass in the grown outline",
        lambda m, method: m.near[method, "malignancy"] - m.near["center", ""],
    ),
    Expectation(
        "malignancy: near the nodule, more than the attention",
        "likewise",
        lambda m, method: m.near[method, "malignancy"] - m.near["attention", ""],
    ),
    Expectation(
        "texture: in the outline, more than the centre",
        "share of the mass in the outline",
        lambda m, method: m.within[method, "texture"] - m.within["center", ""],
    ),
    Expectation(
        "texture: in the outline, more than the attention",
        "likewise",
        lambda m, method: m.within[method, "texture"] - m.within["attention", ""],
    ),
    Expectation(
        "malignancy on the rim, more than its area",
        "it hangs on the spikes: share of the mass of rim and core",
        lambda m, method: m.rim[method, "malignancy"] - m.rim["frame", ""],
    ),
    Expectation("malignancy on the rim, more than texture", "texture fills the inside", _rims("texture")),
    Expectation("malignancy on the rim, more than calcium", "calcium lies in the middle", _rims("calcified")),
    Expectation(
        "calcium on the calcium, more than malignancy",
        "share of the mass on it, of slices that show some",
        lambda m, method: m.calcium[method, "calcified"] - m.calcium[method, "malignancy"],
    ),
    Expectation(
        "malignancy agrees with spiculation more than with texture",
        "it hangs on one and not the other",
        _agrees("texture"),
    ),
    Expectation("malignancy agrees with spiculation more than with calcium", "likewise", _agrees("calcified")),
    Expectation("malignancy agrees with spiculation more than with margin", "likewise", _agrees("margin")),
    Expectation(
        "off the middle: malignancy near the nodule, more than the centre",
        "the map goes where the nodule goes",
        lambda m, method: m.near[method, "malignancy"] - m.near["center", ""],
        off_middle=True,
    ),
    Expectation(
        "off the middle: malignancy in the outline, more than the centre",
        "likewise",
        lambda m, method: m.within[method, "malignancy"] - m.within["center", ""],
        off_middle=True,
    ),
)


def estimate(values: Numbers) -> Estimate | None:
    """The mean over nodules with its 95 % bootstrap interval; None where no nodule has a value."""
    there = values[np.isfinite(values)]
    return Estimate.of(there.tolist()) if len(there) else None


def _shares(pixels: Tensor, masks: Tensor) -> Numbers:
    """Share of absolute mass in masks, (n); NaN where there is no map or no mask."""
    shares = np.full(len(pixels), np.nan)
    there = masks.flatten(1).any(dim=1) & ~pixels.flatten(1).isnan().any(dim=1)
    if bool(there.any()):
        shares[there.numpy()] = energy_in_mask(pixels[there].abs(), masks[there]).numpy()
    return shares


def _by_nodule(values: NDArray[np.floating], place: NDArray[np.int64]) -> Numbers:
    there = np.isfinite(values)
    count = np.bincount(place, there.astype(float))
    total = np.bincount(place, np.where(there, values, 0.0))
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, total / count, np.nan)
