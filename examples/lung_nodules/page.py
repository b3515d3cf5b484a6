"""The findings as a page, as Markdown, and as pictures."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from examples.lung_nodules.maps import (
    AGNOSTIC,
    EXPECTED,
    GROWN,
    METHODS,
    SIGNED,
    Expectation,
    Maps,
    Measured,
    Numbers,
    estimate,
)
from examples.lung_nodules.network import Recipe, Scores, Trained
from examples.lung_nodules.nodules import ROOM, View
from examples.lung_nodules.study import Study
from vitscope.view import blend, symmetric
from vitscope.view.page import Cell, Row, Section, Table, Tile, outline, page
from vitscope.view.scale import clipped, minmax

ZOOM = 9
"""The pictures' pixels for a millimetre."""

_LEADING = ("spiculation", "diameter", "margin", "texture", "calcified")
"""The biomarkers whose maps the page shows, so that a nodule fills one line; the tables have all."""

WARNING = (
    "This is an example of how to read a model. It is no medical device: nothing here may be used to judge a patient."
)


@dataclass(frozen=True, eq=False)
class OffMiddle:
    """The test patients' slices again, each with its nodule off the middle.

    Attributes:
        scores: how well the model does on them.
        maps, measured: of malignancy.
    """

    scores: Scores
    maps: Maps
    measured: Measured


@dataclass(frozen=True, eq=False)
class Findings:
    """All that a run has found.

    Attributes:
        study: what was read.
        learned, tested: how many nodules.
        recipe: how the model was trained.
        trained: the model.
        scores: how well it does on the test patients.
        maps, measured: of the test nodules.
        off_middle: the same nodules off the middle.
        synthetic: whether the scans are phantoms, so that it is known what to expect.
        seconds: what each part took by the clock, and all of it of the processor.
    """

    study: Study
    learned: int
    tested: int
    recipe: Recipe
    trained: Trained
    scores: Scores
    maps: Maps
    measured: Measured
    off_middle: OffMiddle
    synthetic: bool
    seconds: dict[str, float]


def html(found: Findings) -> str:
    """The page in one string, with everything in it."""
    made = "Synthetic CT with nodules of known properties" if found.synthetic else "CT of LIDC-IDRI's layout"
    lead = [
        f"{made}: {len(found.study.patients)} patients, {found.learned} nodules to learn from and {found.tested} of "
        "other patients to test on, three slices through each. A small vision transformer answers with one logit for "
        f"malignancy and one number for each of {len(found.trained.biomarkers)} biomarkers; the maps show what each "
        "answer rests on.",
        WARNING,
    ]
    moved = shown(found.off_middle.maps.views)[:2]
    sections = [
        Section("What the model can do", [], [scores_table(found)]),
        Section(
            "Malignancy and biomarkers",
            [
                "CDAM of malignancy and of biomarkers, for one slice of a nodule: red raises the output, blue lowers "
                "it. Point at a picture, or tick the box above, for the readers' outline; spikes reach beyond it. Each "
                "map is scaled by its own largest value."
            ],
            [_row(found, index) for index in shown(found.maps.views)],
        ),
        Section(
            "Malignancy by all methods",
            [
                "CDAM and its two relatives are signed; AG-CAM, DAAM and the attention are not. Below each: the share "
                f"of its mass in the outline grown by {GROWN:g} mm, all three slices."
            ],
            [_method_row(found.maps, found.measured, index) for index in shown(found.maps.views)[:3]],
        ),
        Section("Where the maps lie", [], [mass_table(found.measured), part_table(found)]),
        Section(
            "Off the middle",
            [
                "Every nodule lies in the middle of its crop, so that a blob there does well. Here each lies "
                f"{ROOM} mm off it, in a direction drawn by chance; a map that looks at the nodule goes with it. The "
                "model was trained on nodules within 2 mm of the middle; its AUC is "
                f"{_auc(found.off_middle.scores)} here and {_auc(found.scores)} there."
            ],
            [
                *(_method_row(found.off_middle.maps, found.off_middle.measured, index) for index in moved),
                mass_table(found.off_middle.measured),
            ],
        ),
        Section("How maps agree", [], [agreement_table(found)]),
    ]
    if found.synthetic:
        sections.append(Section("What was expected", _EXPECTED_WORDS, [expected_table(found)]))
    return page("Lung nodules: malignancy, biomarkers, and their maps", lead, sections, _foot(found))


_EXPECTED_WORDS = [
    "What is drawn is known: malignancy hangs on the spikes, and a little on the size; on texture, calcium, margin and "
    "bumps it does not. Each line is a difference that must then be above zero, the mean over nodules with its 95 % "
    "interval. It holds where the whole interval is above zero."
]


def markdown(found: Findings) -> str:
    """The tables, to be kept or compared."""
    parts = [
        ("What the model can do", scores_table(found)),
        ("Where the maps of malignancy lie", mass_table(found.measured)),
    ]
    parts.append((f"The same, nodules {ROOM} mm off the middle", mass_table(found.off_middle.measured)))
    parts += [("On which part of the nodule", part_table(found)), ("Agreement with malignancy", agreement_table(found))]
    if found.synthetic:
        parts.append(("What was expected", expected_table(found)))
    text = "".join(f"## {title}\n\n{_markdown(table)}\n\n" for title, table in parts)
    return f"# Lung nodules\n\n{WARNING}\n\n{_foot(found)}\n\n{text}"


def scores_table(found: Findings) -> Table:
    """Malignancy's accuracy, and each biomarker's error beside that of guessing the mean."""
    s = found.scores
    lines = [
        [Cell("malignancy"), Cell(f"AUC {s.auc:.3f}, accuracy {s.accuracy:.3f}"), Cell("0.5"), Cell("")],
        [Cell("malignancy, a nodule's views averaged"), Cell(f"AUC {s.nodule_auc:.3f}"), Cell("0.5"), Cell("")],
        [
            Cell(f"malignancy, {ROOM} mm off the middle"),
            Cell(f"AUC {_auc(found.off_middle.scores)}"),
            Cell("0.5"),
            Cell(""),
        ],
    ]
    for name in found.trained.biomarkers:
        explained = 1 - s.errors[name] / s.trivial[name] if s.trivial[name] > 0 else float("nan")
        lines.append(
            [
                Cell(name),
                Cell(f"MSE {s.errors[name]:.2f}"),
                Cell(f"{s.trivial[name]:.2f}"),
                Cell(f"{explained:.2f}", share=min(max(explained, 0.0), 1.0) if explained == explained else None),
            ]
        )
    return Table(
        ["output", "on the test patients", "guessing the mean", "share of variance explained"],
        lines,
        f"Malignancy: {s.views} views of {s.nodules} nodules whose readers' mean is not 3. Errors are in units of the "
        "training nodules' variance.",
    )


def mass_table(m: Measured) -> Table:
    """Where the maps of malignancy lie, method by method."""
    keys = [(method, "malignancy") for method in METHODS] + [(method, "") for method in AGNOSTIC]
    lines = [[Cell(key[0]), _cell(m.within[key]), _cell(m.near[key])] for key in keys]
    return Table(
        ["maps of malignancy", "mass in the outline", f"in the outline grown by {GROWN:g} mm"],
        lines,
        "Share of the map's absolute mass, mean over nodules; in brackets the 95 % interval. frame: a map of ones, so "
        "the share of the area.",
        tuple(name for name in AGNOSTIC if name != "attention"),
    )


def part_table(found: Findings) -> Table:
    """On which part of the nodule each output's CDAM lies."""
    m = found.measured
    lines = []
    for method in ("cdam", "daam"):
        lines += [
            [Cell(f"{method}: {name}"), *(_cell(part[method, name]) for part in (m.within, m.near, m.rim, m.calcium))]
            for name in found.maps.outputs
        ]
    lines += [
        [Cell(method), *(_cell(part[method, ""]) for part in (m.within, m.near, m.rim, m.calcium))]
        for method in ("attention", "center", "frame")
    ]
    return Table(
        ["map of", "mass in the outline", f"grown by {GROWN:g} mm", "rim, of rim and core", "on calcium"],
        lines,
        "Rim: from 2 mm inside the outline to 4 mm outside; core: deeper than 2.5 mm. On calcium: of slices that show "
        "some. Absolute mass.",
        ("attention", "center", "frame"),
    )


def agreement_table(found: Findings) -> Table:
    """Rank correlation of malignancy's map with each biomarker's."""
    lines = [
        [Cell(method), *(_cell(found.measured.agreement[method, name], bar=False) for name in found.trained.biomarkers)]
        for method in METHODS
    ]
    return Table(
        ["malignancy's map and that of", *found.trained.biomarkers],
        lines,
        "Spearman's correlation over the patches, mean over nodules, with the 95 % interval. Unsigned maps (agcam, "
        "daam) agree wherever both lie on the nodule; signed ones (cdam and its kin) only where both say the same.",
    )


def expected_table(found: Findings) -> Table:
    """Each expectation, by each method: whether it holds."""
    lines = []
    for one in EXPECTED:
        cells = []
        for method in METHODS:
            e = estimate(_difference(found, one, method))
            cells.append(
                Cell("no value") if e is None else Cell(_verdict(e.low, e.high), _signed(e.mean, e.low, e.high))
            )
        lines.append([Cell(one.name, f"({one.text})"), *cells])
    return Table(["expected", *METHODS], lines)


def holds(found: Findings) -> dict[str, dict[str, str]]:
    """Expectation -> method -> "holds", "does not hold" or "undecided"."""
    out: dict[str, dict[str, str]] = {}
    for one in EXPECTED:
        for method in METHODS:
            e = estimate(_difference(found, one, method))
            out.setdefault(one.name, {})[method] = "no value" if e is None else _verdict(e.low, e.high)
    return out


def _difference(found: Findings, one: Expectation, method: str) -> Numbers:
    return one.difference(found.off_middle.measured if one.off_middle else found.measured, method)


def shown(views: Sequence[View], count: int = 4) -> list[int]:
    """Which axial views are shown: by rule, those whose readers called them most and least malignant, in turn."""
    axial = [index for index, view in enumerate(views) if view.name == "axial"]
    ordered = sorted(axial, key=lambda index: -views[index].nodule.ratings["malignancy"])
    picked = [ordered[place // 2 if place % 2 == 0 else -1 - place // 2] for place in range(len(ordered))]
    calcified = [index for index in ordered if views[index].calcium.sum() >= 6]
    picked = picked[: count - 1] + calcified[len(calcified) // 2 :][:1] + picked[count - 1 :]
    return list(dict.fromkeys(picked))[:count]


def figure(found: Findings, rows: int = 4) -> Image.Image:
    """CT, outline and CDAM of every output as one picture, with the colour bar."""
    indices = shown(found.maps.views, rows)
    names = found.maps.outputs
    drawn = Figure(figsize=(1.55 * (len(names) + 1), 1.75 * len(indices) + 0.9), dpi=110)
    grid = drawn.add_gridspec(
        len(indices) + 1, len(names) + 1, height_ratios=[*[1.0] * len(indices), 0.06], hspace=0.12, wspace=0.06,
        left=0.02, right=0.98, top=0.95, bottom=0.07,
    )  # fmt: skip
    out = found.trained.predict([found.maps.views[index] for index in indices])
    for line, index in enumerate(indices):
        view = found.maps.views[index]
        for column in range(len(names) + 1):
            axes = drawn.add_subplot(grid[line, column])
            axes.imshow(view.picture[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
            axes.set_xticks([])
            axes.set_yticks([])
            if column:
                name = names[column - 1]
                shares = symmetric(found.maps.pixels["cdam", name][index])
                axes.imshow(
                    shares, cmap="RdBu_r", vmin=-1, vmax=1, alpha=np.abs(shares) ** 0.7, interpolation="bicubic"
                )
                said = f"logit {out[line, 0]:+.1f}" if column == 1 else f"{out[line, column - 1]:+.1f} SD"
                axes.text(0.97, 0.03, said, transform=axes.transAxes, ha="right", color="white", fontsize=7)
            axes.contour(view.mask, levels=[0.5], colors="#ffe08a", linewidths=0.9)
            if not line:
                axes.set_title("axial CT slice" if not column else names[column - 1], fontsize=9)
    bar = drawn.add_subplot(grid[len(indices), len(names) // 2 : len(names) // 2 + 3])
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(-1, 1), "RdBu_r")
    drawn.colorbar(scale, cax=bar, orientation="horizontal", ticks=[-1, 0, 1])
    bar.set_xticklabels(["lowers the output", "0", "raises it"], fontsize=8)
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _row(found: Findings, index: int) -> Row:
    view = found.maps.views[index]
    said = found.trained.predict([view])[0]
    tiles = [_slice_tile(view), _tile(found.maps, "cdam", "malignancy", index, "malignancy", f"logit {said[0]:+.1f}")]
    biomarkers = found.trained.biomarkers
    for name in [one for one in _LEADING if one in biomarkers]:
        place = biomarkers.index(name)
        value = float(said[1 + place]) * float(found.trained.spread[place]) + float(found.trained.mean[place])
        note = f"says {round(value, 1) + 0:.1f}, readers {_read(view, name):.1f}"  # no "-0.0"
        tiles.append(_tile(found.maps, "cdam", name, index, name, note))
    ratings = view.nodule.ratings
    heading = f"{view.nodule.id}, {view.name}: the readers say malignancy {ratings['malignancy']:.1f} of 5"
    return Row(heading, tiles)


def _method_row(maps: Maps, measured: Measured, index: int) -> Row:
    view = maps.views[index]
    tiles = []
    for method in (*METHODS, "attention", "center"):
        name = "malignancy" if method in METHODS else ""
        near = measured.near[method, name][measured.nodules.index(view.nodule.id)]
        tiles.append(_tile(maps, method, name, index, method, f"{near:.0%} near the nodule"))
    return Row(f"{view.nodule.id}, {view.name}", tiles)


def _read(view: View, name: str) -> float:
    return view.nodule.diameter if name == "diameter" else view.nodule.ratings[name]


def _photo(view: View) -> Image.Image:
    side = view.picture.shape[0] * ZOOM
    return Image.fromarray(view.picture).resize((side, side), Image.Resampling.BICUBIC)


def _slice_tile(view: View) -> Tile:
    photo = _photo(view)
    return Tile("the slice", photo, f"{view.nodule.diameter:.0f} mm, {view.nodule.readers} readers", _border(view))


def _border(view: View) -> Image.Image:
    return outline(view.mask, _photo(view).size)


def _tile(maps: Maps, method: str, name: str, index: int, title: str, note: str) -> Tile:
    view = maps.views[index]
    photo = _photo(view)
    values = maps.pixels[method, name][index]
    if bool(values.isnan().any()):
        return Tile(title, photo, "no map: it is zero everywhere", _border(view))
    large = torch.nn.functional.interpolate(values[None, None], photo.size[::-1], mode="bilinear")[0, 0]
    signed = method in SIGNED
    shares = symmetric(clipped(large, large)) if signed else minmax(clipped(large, large))
    return Tile(title, blend(photo, shares, signed), note, _border(view))


def _cell(values: Numbers, bar: bool = True) -> Cell:
    e = estimate(values)
    if e is None:
        return Cell("–")
    share = min(max(e.mean, 0.0), 1.0) if bar else None
    return Cell(f"{e.mean:.2f}", f"[{e.low:.2f}, {e.high:.2f}]", share)


def _auc(scores: Scores) -> str:
    return f"{scores.auc:.3f}"


def _verdict(low: float, high: float) -> str:
    return "holds" if low > 0 else "does not hold" if high < 0 else "undecided"


def _signed(mean: float, low: float, high: float) -> str:
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def _markdown(table: Table) -> str:
    lines = [table.headings, ["---"] * len(table.headings)]
    lines += [[f"{cell.text} {cell.note}".strip() for cell in line] for line in table.lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{table.note}".rstrip()


def _foot(found: Findings) -> str:
    r = found.recipe
    way = f"linear head on {r.depth} frozen blocks" if r.frozen else f"{r.depth} blocks, {r.epochs} epochs"
    missing = sum(found.maps.missing.values())
    words = [f"{way}, seed {r.seed}"]
    if missing:
        words.append(f"{missing} maps are missing, being zero everywhere or not finite")
    if found.study.left_out:
        words.append(f"{len(found.study.left_out)} outlined nodules left out")
    words.append(", ".join(f"{name} {seconds:.0f} s" for name, seconds in found.seconds.items()))
    words.append(", ".join(f"{name} {version(name)}" for name in ("vitscope", "torch", "timm", "pydicom")))
    return "; ".join([*words, f"Python {platform.python_version()}"])
