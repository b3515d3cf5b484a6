"""Methods on the drawn scenes, whose truth is exact, next to maps that need no model at all."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from vitscope.bench.statistics import Estimate
from vitscope.datasets import Scene
from vitscope.datasets.scenes import SIZE
from vitscope.errors import MethodError, VitscopeError
from vitscope.explainer import Explainer
from vitscope.methods import Method, Wanted, centred_gaussian, choose
from vitscope.metrics import THRESHOLDS, energy_in_mask, iou_curve

BATCH = 50

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Localization:
    """How well one method's maps of the predicted class lie on the things of one-object scenes.

    Attributes:
        method: its label.
        threshold: of the min-max scaled map, negative values, evidence against, counting as 0; the one with the best
            mean IoU on other scenes.
        iou: intersection over union with the exact mask at that threshold.
        area: under the curve of IoU over all thresholds.
        energy: share of positive mass in the mask (energy-based pointing game).
        failures: scenes of which the method gave no map; they are left out of the means.
    """

    method: str
    threshold: float
    iou: Estimate
    area: Estimate
    energy: Estimate
    failures: int


@dataclass(frozen=True)
class TwoObjectMass:
    """Where the positive mass goes when a two-class scene is asked for either class.

    Attributes:
        method: its label.
        asked: share of all positive mass on the asked class's object; a value a question.
        other: share on the other class's object.
        preference: asked / (asked + other): 0.5 = deaf to the question, 1 = all on the asked object; scenes whose
            maps have no mass on either object are left out.
        failures: questions to which the method gave no map.
    """

    method: str
    asked: Estimate
    other: Estimate
    preference: Estimate
    failures: int


def localization(
    explainer: Explainer,
    methods: Wanted,
    scenes: Sequence[Scene],
    tuning: Sequence[Scene],
    progress: Progress = lambda done: None,
) -> list[Localization]:
    """Hold every method's maps of the predicted class against the masks, trivial baselines last.

    Of signed maps the positive part is measured: min-max scaling would put zero, no evidence, at another height in
    every picture.

    Args:
        explainer: of a classifier of the scenes.
        methods: as for `Explainer`.
        scenes: to be measured on, a thing in each.
        tuning: other scenes, on which each method's threshold is chosen.
        progress: called with the number of scenes done since the last call.

    Raises:
        VitscopeError: a method gives no map of any scene.
    """
    chosen = _localize(explainer, methods, tuning, progress)
    measured = _localize(explainer, methods, scenes, progress)
    rows = []
    for label, found in measured.items():
        best = int(torch.stack(chosen[label].curves).mean(dim=0).argmax())
        curves = torch.stack(found.curves)
        rows.append(
            Localization(
                label,
                float(THRESHOLDS[best]),
                iou=Estimate.of(curves[:, best].tolist()),
                area=Estimate.of(torch.trapezoid(curves, THRESHOLDS, dim=1).tolist()),
                energy=Estimate.of(found.energies),
                failures=found.failures,
            )
        )
    return rows


def two_object_mass(
    explainer: Explainer, methods: Wanted, scenes: Sequence[Scene], progress: Progress = lambda done: None
) -> list[TwoObjectMass]:
    """Ask two-class scenes for either class, and see on which object the positive mass lies, baselines last.

    A class-agnostic method has one map, which is held against both questions.

    Raises:
        VitscopeError: a method gives no map of any scene.
    """
    shares: dict[str, list[tuple[float, float]]] = {}
    failures: dict[str, int] = {}
    for group in _groups(scenes):
        for turn in (0, 1):
            asked = [scene.labels[turn] for scene in group]
            mine = _masks(scene.mask(scene.labels[turn]) for scene in group)
            theirs = _masks(scene.mask(scene.labels[1 - turn]) for scene in group)
            for label, maps in _all_maps(explainer, methods, group, asked).items():
                values, there = _present(maps)
                on_mine, on_theirs = (energy_in_mask(values, masks[there]).tolist() for masks in (mine, theirs))
                shares.setdefault(label, []).extend(zip(on_mine, on_theirs, strict=True))
                failures[label] = failures.get(label, 0) + len(maps) - len(there)
        progress(len(group))
    rows = []
    for label, pairs in shares.items():
        _check(label, len(pairs))
        on_asked, on_other = zip(*pairs, strict=True)
        preference = [mine / (mine + theirs) for mine, theirs in pairs if mine + theirs > 0]
        rows.append(
            TwoObjectMass(label, Estimate.of(on_asked), Estimate.of(on_other), Estimate.of(preference), failures[label])
        )
    return rows


def trivial_maps(scenes: Sequence[Scene], grid: tuple[int, int] = (12, 12)) -> dict[str, Tensor]:
    """Maps (b H W) that know nothing of model or picture.

    "random": uniform noise on the patch grid, seeded by the scene's name, enlarged as maps are. "center": a Gaussian
    in the middle, its standard deviation a quarter of the side. "frame": 1 everywhere.
    """
    height, width = scenes[0].image.shape[:2]
    noise = [
        torch.rand(grid, generator=torch.Generator().manual_seed(zlib.crc32(scene.name.encode()))) for scene in scenes
    ]
    return {
        "random": F.interpolate(torch.stack(noise)[:, None], (height, width), mode="bilinear")[:, 0],
        "center": centred_gaussian(height, width).expand(len(scenes), -1, -1),
        "frame": torch.ones(len(scenes), height, width),
    }


@dataclass
class _Found:
    """What one method gave on the scenes so far."""

    curves: list[Tensor] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)
    failures: int = 0


def _localize(explainer: Explainer, methods: Wanted, scenes: Sequence[Scene], progress: Progress) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for group in _groups(scenes):
        masks = _masks(scene.mask() for scene in group)
        for label, maps in _all_maps(explainer, methods, group, None).items():
            values, there = _present(maps)
            entry = found.setdefault(label, _Found())
            entry.curves.extend(iou_curve(values.clamp(min=0), masks[there]))
            entry.energies.extend(energy_in_mask(values, masks[there]).tolist())
            entry.failures += len(maps) - len(there)
        progress(len(group))
    for label, entry in found.items():
        _check(label, len(entry.curves))
    return found


def _all_maps(
    explainer: Explainer, methods: Wanted, scenes: Sequence[Scene], targets: list[int] | None
) -> dict[str, list[Tensor | None]]:
    """Label -> a map (H W) a scene, None where it is flat; class-agnostic methods are not told the targets."""
    images = [scene.image for scene in scenes]
    asked = choose(methods)
    reasons = {label: explainer.why_not(label, method) for label, method in asked.methods.items()}
    for label, reason in reasons.items():
        if reason and label not in asked.grouped:
            raise MethodError(reason)
    chosen = {label: method for label, method in asked.methods.items() if not reasons[label]}
    maps: dict[str, list[Tensor | None]] = {label: [] for label in chosen}
    for specific, aim in ((True, targets), (False, None)):
        kind = {label: method for label, method in chosen.items() if method.facts.class_specific is specific}
        if kind:
            maps |= _maps(explainer, kind, images, aim)
    for label, values in trivial_maps(scenes, explainer.anatomy.grid(scenes[0].image.shape[:2])).items():
        maps[label] = list(values)
    return maps


def _maps(
    explainer: Explainer, methods: dict[str, Method], images: list[Any], targets: list[int] | None
) -> dict[str, list[Tensor | None]]:
    """Of one pass; methods of which one image's map is flat are asked again for each image by itself."""
    explanation = explainer(images, methods, targets, strict=False)
    maps: dict[str, list[Tensor | None]] = {
        label: list(attribution.to_pixels()) for label, attribution in explanation.attributions.items()
    }
    again = {label: methods[label] for label in explanation.failures}
    if again and len(images) == 1:
        return maps | {label: [None] for label in again}
    if again:
        aims = [None] * len(images) if targets is None else [[target] for target in targets]
        alone = [_maps(explainer, again, [image], aim) for image, aim in zip(images, aims, strict=True)]
        maps |= {label: [each[label][0] for each in alone] for label in again}
    return maps


def _present(maps: list[Tensor | None]) -> tuple[Tensor, list[int]]:
    """The maps that there are (b H W), and whose they are; (0 H W) where there are none."""
    found = [(index, values) for index, values in enumerate(maps) if values is not None]
    stacked = torch.stack([values for _, values in found]) if found else torch.zeros(0, SIZE, SIZE)
    return stacked, [index for index, _ in found]


def _check(label: str, maps: int) -> None:
    if not maps:
        raise VitscopeError(f"{label} gave no map of any scene; explain one of them by itself for the reason")


def _groups(scenes: Sequence[Scene]) -> Iterator[list[Scene]]:
    for start in range(0, len(scenes), BATCH):
        yield [scenes[index] for index in range(start, min(start + BATCH, len(scenes)))]


def _masks(masks: Iterable[NDArray[np.bool_]]) -> Tensor:
    return torch.from_numpy(np.stack(list(masks)))
