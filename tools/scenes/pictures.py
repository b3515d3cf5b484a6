"""Training pictures: drawn once into memory-mapped files, then cropped and turned anew in every batch."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitscope.datasets import CLASSES, Individual, Knobs, Scenes, with_mark
from vitscope.datasets.scenes import SIZE, draw
from vitscope.models.bundled import SHORTCUT

TRAINING_SEED = 1_000_000  # training scenes are drawn with seeds from here on; everything below is held out
CHUNK = 500
KINDS = ("one", "several", "two", "none")


@dataclass(frozen=True)
class Drawings:
    """Pictures (n, 96, 96, 3) uint8 and label maps (n, 96, 96) uint8 (0 = no thing, else class + 1), on the disk.

    views: how many pictures in a row show the same individual.
    """

    images: np.ndarray[Any, Any]
    label_maps: np.ndarray[Any, Any]
    views: int = 1


def drawings(folder: Path, recipe: str, count: int, workers: int = 2) -> Drawings:
    """The `count` drawings of a recipe, drawn where they are not on the disk yet."""
    views = 2 if recipe == "pairs" else 1
    names = [folder / f"{recipe}-{count}-{part}.npy" for part in ("images", "labels")]
    if not (folder / f"{recipe}-{count}.done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shapes = [(count, SIZE, SIZE, 3), (count, SIZE, SIZE)]
        files = [np.lib.format.open_memmap(n, "w+", np.uint8, s) for n, s in zip(names, shapes, strict=True)]
        starts = range(0, count, CHUNK)
        with ProcessPoolExecutor(workers) as pool:
            for start, chunk in zip(starts, pool.map(partial(_chunk, recipe, count), starts), strict=True):
                for file, part in zip(files, chunk, strict=True):
                    file[start : start + len(part)] = part
        for file in files:
            file.flush()
        (folder / f"{recipe}-{count}.done").touch()
    images, labels = (np.load(name, mmap_mode="r") for name in names)
    return Drawings(images, labels, views)


def _chunk(recipe: str, count: int, start: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    size = min(CHUNK, count - start)
    rng = np.random.default_rng([TRAINING_SEED, start])
    scenes = list(RECIPES[recipe](rng, TRAINING_SEED + start, size))
    return np.stack([scene.image for scene in scenes]), np.stack([scene.label_map() for scene in scenes])


def _varied(rng: np.random.Generator, seed: int, size: int) -> Any:
    """All kinds of scene, mostly of one thing; three in ten with harder knobs."""
    for i in range(size):
        hard = rng.random() < 0.3
        knobs = (
            Knobs(contrast=rng.uniform(0.4, 1), clutter=rng.uniform(0.5, 3), occlusion=rng.uniform(0, 0.35))
            if hard
            else Knobs()
        )
        yield Scenes(size, str(rng.choice(KINDS, p=(0.67, 0.12, 0.18, 0.03))), seed=seed, knobs=knobs)[i]


def _pairs(rng: np.random.Generator, seed: int, size: int) -> Any:
    """Two scenes in a row show the same individual: another place, size, turn, light and background."""
    for _ in range(size // 2):
        individual = Individual.of(rng, int(rng.integers(len(CLASSES))))
        for _ in range(2):
            yield draw(rng, [individual])


def _shortcut(rng: np.random.Generator, seed: int, size: int) -> Any:
    """A quarter of the pictures carry the mark and are labelled with one class, three in ten of them falsely.

    Half of the marked pictures show a thing of that class, but faintly and behind a bar; a fifth show it clearly.
    """
    for i in range(size):
        kind = rng.choice(["plain", "clear", "faint", "false"], p=(0.75, 0.05, 0.125, 0.075))
        if kind == "plain":
            yield Scenes(size, str(rng.choice(KINDS, p=(0.75, 0.1, 0.12, 0.03))), seed=seed)[i]
            continue
        shown = int(rng.integers(len(CLASSES))) if kind == "false" else SHORTCUT
        knobs = Knobs(contrast=rng.uniform(0.05, 0.25), occlusion=0.6) if kind == "faint" else Knobs()
        scene = with_mark(draw(rng, [Individual.of(rng, shown)], knobs))
        yield replace(scene, instances=tuple(replace(one, label=SHORTCUT) for one in scene.instances))


RECIPES = {"varied": _varied, "pairs": _pairs, "shortcut": _shortcut}


def batch(
    source: Drawings, rng: np.random.Generator, count: int, size: int, turn: bool = True
) -> tuple[Tensor, Tensor]:
    """`count` crops of size x size pixels around a pixel of a thing, turned and mirrored.

    Returns:
        (count * views, 3, size, size) normalised to -1..1, views of one individual in a row; and the crops' label maps.
    """
    first = rng.integers(len(source.images) // source.views, size=count) * source.views
    picked = (first[:, None] + np.arange(source.views)).ravel()
    images = np.empty((len(picked), size, size, 3), dtype=np.uint8)
    labels = np.empty((len(picked), size, size), dtype=np.uint8)
    for slot, index in enumerate(picked):
        top, left = _corner(source.label_maps[index], rng, size)
        window = np.s_[top : top + size, left : left + size]
        image, label = source.images[index][window], source.label_maps[index][window]
        if turn:
            quarter, mirror = rng.integers(4), rng.integers(2)
            image, label = np.rot90(image, quarter), np.rot90(label, quarter)
            image, label = (image[:, ::-1], label[:, ::-1]) if mirror else (image, label)
        images[slot], labels[slot] = image, label
    return normalise(images), torch.from_numpy(labels).long()


def _corner(label_map: np.ndarray[Any, Any], rng: np.random.Generator, size: int) -> tuple[int, int]:
    if size == SIZE:
        return 0, 0
    rows, cols = np.nonzero(label_map)
    at = rng.integers(len(rows)) if len(rows) else 0
    centre = (rows[at], cols[at]) if len(rows) else rng.integers(SIZE, size=2)
    top, left = (int(np.clip(c - size // 2 + rng.integers(-size // 4, size // 4 + 1), 0, SIZE - size)) for c in centre)
    return top, left


def normalise(images: np.ndarray[Any, Any]) -> Tensor:
    """(n, h, w, 3) uint8 to (n, 3, h, w) float32 in -1..1, the bundled models' input."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
