"""The demonstration: drawn scenes, bundled models, a choice of methods, on one page with what can be measured."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vitscope.arrays import as_array
from vitscope.attribution import Attribution, Subject
from vitscope.bench import Estimate, Localization, TwoObjectMass, localization, two_object_mass
from vitscope.datasets import CLASSES, Scene, Scenes, with_mark
from vitscope.explainer import Explainer
from vitscope.methods import Facts, as_methods, list_methods
from vitscope.metrics import energy_in_mask
from vitscope.models.bundled import SHORTCUT
from vitscope.targets import MemoryBank, Neighbours, Target
from vitscope.view import at_size, blend, clipped, global_max, overlay, text
from vitscope.view.page import Cell, Film, Row, Section, Table, Tile, outline, page

SIDE = 288
"""Longest side of the page's pictures, in pixels: three times the scenes'."""

ONE, SEVERAL, TWO = Scenes(1000, "one", seed=11), Scenes(1000, "several", seed=12), Scenes(1000, "two", seed=13)
MEASURED, TUNED = Scenes(1000, "one", seed=21), Scenes(1000, "one", seed=22)
ASKED = Scenes(1000, "two", seed=23)

ONE_SHOWN, FILMED, SEVERAL_SHOWN, TWO_SHOWN = (4, 20, 28), (6, 24), (18, 25), (25, 21)
CHEATED_SHOWN, UNLABELLED_SHOWN = 16, (19, 8)
"""Which scenes are shown: chosen by hand for variety. What is measured is not chosen."""

_LEADING = ("daam", "agcam", "cdam", "smooth_cdam", "integrated_cdam")
MOST, CHEAP = 2, 3.0
"""Of each other family: so many methods, of no more than so many forwards."""


def chosen(listed: Sequence[Facts]) -> list[str]:
    """The methods of the papers, and of every other family the cheapest; the trivial ones are in the tables anyway."""
    papers = [facts.name for facts in listed if facts.family == "papers"]
    names = [name for name in _LEADING if name in papers] + [name for name in papers if name not in _LEADING]
    for family in dict.fromkeys(facts.family for facts in listed if facts.name not in papers and not facts.trivial):
        cheap = [facts for facts in listed if facts.family == family and facts.forwards <= CHEAP]
        names += [facts.name for facts in sorted(cheap, key=lambda one: (one.forwards, one.year))[:MOST]]
    return names


METHODS = chosen(list_methods())
"""What the page shows and measures, so that it stays small whatever is registered."""

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Size:
    """How many scenes are measured: for localization, for its thresholds, and with two classes."""

    measured: int = 200
    tuned: int = 100
    asked: int = 100

    @property
    def steps(self) -> int:
        """How much `demo_page` reports as progress."""
        return self.measured + self.tuned + self.asked + 10 * 6


def demo_page(size: Size | None = None, device: str = "cpu", progress: Progress = lambda done: None) -> str:
    """The page as HTML, everything in it.

    Args:
        size: how many scenes are measured.
        device: where the models run.
        progress: called with the steps done since the last call, `size.steps` in all.
    """
    size = size or Size()
    makers: Sequence[Callable[[str], Section]] = (one_thing, growth, several, two_classes, shortcut, without_labels)
    sections = []
    for make in makers:
        sections.append(make(device))
        progress(10)
    sections.append(measured(size, device, progress))
    lead = [
        "A vision transformer that ships with vitscope (12 blocks, 2.4 million weights, trained on nothing but drawn "
        "scenes) is asked what its answers rest on, by the methods of the papers that vitscope unites and by the "
        f"cheapest of the other families, at most {MOST} of each; vitscope methods lists all. In these scenes the "
        "truth is known to the pixel, so each map can be held against it.",
        "A class is a hue, a pattern and a shape, and no one of them is enough. The numbers under the maps say how "
        "much of a map's positive mass lies on the thing asked for.",
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in ("vitscope", "torch", "timm"))
    return page("vitscope: where does it look?", lead, sections, f"{versions}, Python {platform.python_version()}")


def one_thing(device: str = "cpu") -> Section:
    """One-object scenes."""
    rows = [_row(_explainer("scenes", device), ONE[index]) for index in ONE_SHOWN]
    return Section(
        "One thing",
        [
            "; ".join(f"{facts.name}: {facts.title} ({facts.year})" for facts in map(_facts, METHODS)) + ".",
            "Distractors (strokes, blobs, letters) come in every colour; the maps should leave them alone.",
        ],
        rows,
    )


def growth(device: str = "cpu") -> Section:
    """DAAM's evolution over the blocks."""
    films = []
    for index in FILMED:
        scene = ONE[index]
        explanation = _explainer("scenes", device)([scene.image], "daam")
        films.append(_film(explanation["daam"], f"DAAM after every block: {_truth(scene)}"))
    return Section(
        "How the decision grows",
        [
            "DAAM gives every block a map; here they are added up from the first block on, all on one scale, so that "
            "brightness compares between blocks."
        ],
        films,
    )


def several(device: str = "cpu") -> Section:
    """Several things of one class."""
    rows = [_row(_explainer("scenes", device), SEVERAL[index]) for index in SEVERAL_SHOWN]
    return Section("Several of one class", ["A map that explains the class should find all of them."], rows)


def two_classes(device: str = "cpu") -> Section:
    """Two-class scenes, asked for either class."""
    rows = []
    for index in TWO_SHOWN:
        scene = TWO[index]
        rows += [_row(_explainer("scenes", device), scene, asked=label) for label in scene.labels]
    return Section(
        "Two classes, both asked for",
        [
            "The same picture, two questions. The attention of the class token knows nothing of the question, and is "
            "the same for both."
        ],
        rows,
    )


def shortcut(device: str = "cpu") -> Section:
    """The model with the planted shortcut beside the honest one, with and without the mark."""
    plain = ONE[CHEATED_SHOWN]
    rows = []
    for scene, what in ((plain, "as it is"), (with_mark(plain), "with a mark in the corner")):
        for model in ("scenes", "scenes-shortcut"):
            rows.append(_row(_explainer(model, device), scene, prefix=f"{model}, {what}: "))
    return Section(
        "A model that cheats",
        [
            "scenes-shortcut was trained on pictures in which a small target in the top left corner goes with one "
            f"class, {CLASSES[SHORTCUT]}. It is right as long as nobody puts that mark beside another thing; its maps "
            "show what it has learned.",
            "Under these maps stands how much of them lies on the thing, whatever the model calls it.",
        ],
        rows,
    )


def without_labels(device: str = "cpu") -> Section:
    """The self-supervised model, explained through its memory bank."""
    explainer, bank = _explainer("scenes-ssl", device), MemoryBank.load("scenes-ssl")
    rows = []
    for index in UNLABELLED_SHOWN:
        scene = ONE[index]
        votes = bank.vote(explainer.features([scene.image]))[0]
        said = f"{CLASSES[int(votes.argmax())]} ({float(votes.max()):.2f})"
        rows.append(_row(explainer, scene, target=Neighbours(bank), prefix=f"its neighbours in memory say {said}"))
    return Section(
        "Without labels",
        [
            "scenes-ssl never saw a label. A memory bank of training scenes lets it name what it sees by its nearest "
            "neighbours; what is explained is what makes it like those (DAAM's self-supervised branch)."
        ],
        rows,
    )


def measured(size: Size, device: str, progress: Progress) -> Section:
    """The tables."""
    explainer = _explainer("scenes", device)
    where = localization(explainer, METHODS, MEASURED[: size.measured], TUNED[: size.tuned], progress)
    asked = two_object_mass(explainer, METHODS, ASKED[: size.asked], progress)
    return Section(
        "Measured",
        [
            f"On {size.measured} one-object scenes that no model has seen, and {size.asked} with two classes; in "
            "brackets the 95 % interval. The grey lines are maps that look at neither model nor picture: a method "
            "that does not beat them shows nothing."
        ],
        [localization_table(where), sensitivity_table(asked)],
    )


TRIVIAL = ("random", "center", "frame")


def localization_table(rows: Sequence[Localization]) -> Table:
    """The table of `bench.localization`."""
    return Table(
        ["method", "IoU with the exact mask", "at threshold", "area under the IoU curve", "positive mass on the thing"],
        [[Cell(r.method), _cell(r.iou), Cell(f"{r.threshold:.2f}"), _cell(r.area), _cell(r.energy)] for r in rows],
        "Threshold: of the positive part of the map, min-max scaled; chosen for each method on other scenes. "
        "Maps of the predicted class, right or wrong.",
        TRIVIAL,
    )


def sensitivity_table(rows: Sequence[TwoObjectMass]) -> Table:
    """The table of `bench.two_object_mass`."""
    return Table(
        ["method", "positive mass on the asked class's object", "on the other's", "asked : both"],
        [[Cell(r.method), _cell(r.asked), _cell(r.other), _cell(r.preference)] for r in rows],
        "Each scene is asked for both of its classes. Asked : both is 0.5 where a method is deaf to the question.",
        TRIVIAL,
    )


def _cell(estimate: Estimate) -> Cell:
    if not estimate.n:
        return Cell("–")
    return Cell(f"{estimate.mean:.2f}", f"[{estimate.low:.2f}, {estimate.high:.2f}]", estimate.mean)


@cache
def _explainer(model: str, device: str) -> Explainer:
    return Explainer(model, device=device)


def _truth(scene: Scene) -> str:
    names = [CLASSES[instance.label] for instance in scene.instances]
    return " and ".join(
        f"{names.count(name)} × {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)
    )


def _row(
    explainer: Explainer, scene: Scene, asked: int | None = None, target: Target | None = None, prefix: str = ""
) -> Row:
    """The picture and the methods' maps; class-agnostic ones are not told the question."""
    methods = as_methods(METHODS)
    specific = {label: method for label, method in methods.items() if method.facts.class_specific}
    agnostic = {label: method for label, method in methods.items() if label not in specific}
    mask = scene.mask(asked)
    border = outline(mask, (SIDE, SIDE))
    where = "it" if asked is not None else "the thing" if len(scene.instances) == 1 else "them"
    explanation = explainer([scene.image], specific, asked if target is None else target, strict=False)
    subject = explanation.subject
    photo = subject.batch.originals[0].resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    made = {}
    for found in (explanation, explainer([scene.image], agnostic, strict=False)):
        for label, attribution in found.attributions.items():
            note = f"{_share(attribution, mask):.0%} on {where}"
            if scene.mark is not None:
                note += f", {_share(attribution, scene.mark):.0%} on the mark"
            made[label] = Tile(label, _picture(attribution), note, border)
        made |= {label: Tile(label, _blank(), reason) for label, reason in found.failures.items()}
    tiles = [Tile("the picture", photo, f"is: {_truth(scene)}", border), *(made[label] for label in methods)]
    said = _said(subject) if asked is None else f"asked for: {_chance(subject.class_of(0))}"
    return Row(f"{prefix}{said}", tiles)


def _share(attribution: Attribution, mask: NDArray[np.bool_]) -> float:
    """Share of the positive mass of the first image's map in a mask."""
    values = torch.stack(list(attribution.to_pixels()))
    return float(energy_in_mask(values, torch.from_numpy(mask)[None]))


def _said(subject: Subject) -> str:
    said = subject.prediction(0)
    return "" if said is None else f"it says {_chance(said)}"


def _chance(entry: Mapping[str, Any] | None) -> str:
    return "" if entry is None else f"{entry['name']} (p = {entry['probability']:.2f})"


def _facts(name: str) -> Facts:
    return as_methods(name)[name].facts


def _blank() -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), text.BLANK)


def _picture(attribution: Attribution) -> Image.Image:
    values = attribution.values[0]
    subject = attribution.subject
    view, maps = at_size(subject.batch.originals[0], subject.geometries[0], clipped(values, values)[None], SIDE)
    return overlay(view, maps[0], attribution.signed)


def _film(attribution: Attribution, heading: str) -> Film:
    assert attribution.blocks is not None
    flow, subject = as_array(attribution.blocks[0]).cumsum(axis=0), attribution.subject
    view, maps = at_size(subject.batch.originals[0], subject.geometries[0], clipped(flow, flow[-1]), SIDE)
    frames = [blend(view, frame, attribution.signed) for frame in global_max(maps)]
    return Film(heading, frames, [f"block {number + 1}" for number in range(len(frames))])
