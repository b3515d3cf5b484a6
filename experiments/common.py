"""What the experiments share: scenes and photographs with known truth, models, and tables with intervals."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vitscope import Explainer
from vitscope.bench import Estimate
from vitscope.datasets import Scenes
from vitscope.images import load_image
from vitscope.methods import centred_gaussian
from vitscope.metrics import THRESHOLDS, energy_in_mask, iou_curve

SHARED = Path(os.environ.get("VITSCOPE_SHARED", Path(__file__).parents[2] / "shared"))


@dataclass(frozen=True)
class Case:
    """A picture as a path or array, and the pixels (H W) where its things are, one by one."""

    picture: object
    things: tuple[np.ndarray, ...]
    label: int

    @property
    def mask(self) -> np.ndarray:
        """All of them."""
        return np.logical_or.reduce(self.things)

    @property
    def pixels(self) -> np.ndarray:
        """(H W 3) uint8."""
        return self.picture if isinstance(self.picture, np.ndarray) else np.asarray(load_image(self.picture))


@dataclass(frozen=True)
class World:
    """A model, its name, and pictures with truth."""

    name: str
    explainer: Explainer
    cases: Sequence[Case]


def worlds(count: int = 200, kind: str = "one", seed: int = 71) -> Iterator[World]:
    """The bundled scenes; and, where the shared files are, 200 ImageNet photographs with their boxes.

    Photographs with one box alone are left out where `kind` is "several".
    """
    scenes = Scenes(count, kind, seed=seed)
    cases = [Case(s.image, tuple(one.mask for one in s.instances), s.labels[0]) for s in scenes]
    yield World(f"scenes ({count} drawn)", Explainer("scenes"), cases)
    if SHARED.is_dir():
        photographs = [case for case in boxed_photographs() if kind == "one" or len(case.things) > 1][:count]
        yield World(f"ViT-Ti/16 ({len(photographs)} ImageNet photographs, boxes)", vit_tiny(), photographs)


@cache
def vit_tiny() -> Explainer:
    return Explainer("timm/vit_tiny_patch16_224", SHARED / "weights" / "vit_tiny_patch16_224.safetensors")


@cache
def boxed_photographs() -> list[Case]:
    """The shared photographs with their boxes."""
    lines = (SHARED / "imagenet" / "LOC_synset_mapping.txt").read_text().splitlines()
    classes = [line.split()[0] for line in lines]
    with (SHARED / "imagenet" / "LOC_val_solution.csv").open() as file:
        words = {row["ImageId"]: row["PredictionString"].split() for row in csv.DictReader(file)}
    cases = []
    for path in sorted((SHARED / "imagenet" / "val").iterdir()):
        width, height = Image.open(path).size
        entry, boxes = words[path.stem], []
        for start in range(0, len(entry), 5):
            left, top, right, bottom = map(int, entry[start + 1 : start + 5])
            boxes.append(np.zeros((height, width), dtype=bool))
            boxes[-1][top : bottom + 1, left : right + 1] = True
        cases.append(Case(path, tuple(boxes), classes.index(entry[0])))
    return cases


def share(values: torch.Tensor, mask: np.ndarray) -> float:
    """Of the positive mass of a map (H W), that on a mask, on the pixels that the model saw."""
    return float(energy_in_mask(values[None], torch.from_numpy(mask)[None]))


@dataclass(frozen=True)
class Measured:
    """Of one method over all cases: IoU curves (n t) and energies (n) of the positive part."""

    curves: torch.Tensor
    energies: list[float]

    @property
    def iou(self) -> Estimate:
        """At the threshold that is best for the second half on the first, and the other way round."""
        half = len(self.curves) // 2
        first, second = self.curves[:half], self.curves[half:]
        chosen = torch.cat([first[:, second.mean(0).argmax()], second[:, first.mean(0).argmax()]])
        return Estimate.of(chosen.tolist())

    @property
    def energy(self) -> Estimate:
        """Share of the positive mass on the object."""
        return Estimate.of(self.energies)


def measure(world: World, methods: Sequence[str], target=None, batch: int = 20) -> dict[str, Measured]:
    """Every method's maps against the truth, on the pixels that the model saw."""
    curves: dict[str, list[torch.Tensor]] = {}
    energies: dict[str, list[float]] = {}

    def add(label: str, values: torch.Tensor, mask: torch.Tensor) -> None:
        if mask.any():
            curves.setdefault(label, []).append(iou_curve(values.clamp(min=0)[None], mask[None])[0])
            energies.setdefault(label, []).extend(energy_in_mask(values[None], mask[None]).tolist())

    for start in range(0, len(world.cases), batch):
        cases = world.cases[start : start + batch]
        explanation = world.explainer([case.picture for case in cases], list(methods), target, strict=False)
        for label, attribution in explanation.attributions.items():
            for case, values in zip(cases, attribution.to_pixels(), strict=True):
                part = seen_part(values)
                add(label, values[part], torch.from_numpy(case.mask)[part])
        for case, values in zip(cases, attribution.to_pixels(), strict=True):
            part = seen_part(values)
            for label, trivial in trivial_maps(values[part].shape).items():
                add(label, trivial, torch.from_numpy(case.mask)[part])
    return {label: Measured(torch.stack(curves[label]), energies[label]) for label in [*methods, "center", "frame"]}


def seen_part(values: torch.Tensor) -> tuple[slice, slice]:
    """The rectangle of a map (H W) that is not NaN: what the model's crop saw."""
    rows, cols = (values.isfinite().any(dim=axis).nonzero().flatten() for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)


def trivial_maps(size: Sequence[int]) -> dict[str, torch.Tensor]:
    """Maps (H W) that know nothing: a Gaussian in the middle (a quarter of the side), the full frame."""
    return {"center": centred_gaussian(*size), "frame": torch.ones(*size)}


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


__all__ = [
    "SHARED",
    "THRESHOLDS",
    "Case",
    "Measured",
    "World",
    "measure",
    "share",
    "show",
    "table",
    "vit_tiny",
    "worlds",
]
