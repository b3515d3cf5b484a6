"""Where to look first: classes and images of which a method does best and worst."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageOps

from vitscope.bench.findings import Extremes
from vitscope.bench.page.cells import in_order
from vitscope.bench.summary import Summary
from vitscope.bench.tables import digits
from vitscope.view.page import Cell, Fold, Gallery, Part, Section, Table, Thumb

THUMB = 112
"""Side of a small picture, in pixels."""

CLASSES, LEAST = 5, 3
"""Classes that are shown as best and as worst, each; images that a class must have."""

MOST_PICTURES = 400
"""Different pictures that a page keeps; of others the names are shown."""


def by_class(summary: Summary) -> Section | None:
    """The worst and the best classes by every value of the overview."""
    folds: list[Part] = []
    methods = in_order(summary)
    for name in dict.fromkeys(one.metric for one in summary.classes):
        at = {(one.label, one.method): one for one in summary.classes if one.metric == name}
        higher = bool(summary.of(name)[0].higher_is_better)
        serious = [label for label in methods if label not in summary.trivial] or methods
        known = {label for label, _ in at if max(at[label, m].n for m in methods if (label, m) in at) >= LEAST}
        worth = {}
        for label in known:
            means = [at[label, m].mean for m in serious if (label, m) in at]
            if means:
                worth[label] = sum(means) / len(means)
        order = sorted(worth, key=lambda label: worth[label] if higher else -worth[label])
        if not order:
            continue
        half = min(CLASSES, (len(order) + 1) // 2)
        chosen = dict.fromkeys([*order[:half], *order[max(half, len(order) - half) :]])
        body = []
        for label in chosen:
            n = max(at[label, m].n for m in methods if (label, m) in at)
            cells = [Cell(summary.about.names.get(label, f"class {label}")), Cell(str(n), order=n)]
            for m in methods:
                one = at.get((label, m))
                cells.append(Cell("–") if one is None else Cell(digits(one.mean), order=one.mean))
            body.append(cells)
        note = f"{len(order)} of {len({label for label, _ in at})} classes have {LEAST} images or more."
        folds.append(Fold(name, [Table(["class", "n", *methods], body, note, sortable=True)]))
    if not folds:
        return None
    words = (
        "By the class that was explained: the worst, then the best, by the mean over all methods but the trivial ones. "
        "Few images stand behind a class; read this as where to look, not as a result."
    )
    return Section("By class", [words], folds)


def extremes(summary: Summary, places: dict[str, int]) -> Section | None:
    """The best and the worst images of every method."""
    folds: list[Part] = []
    for name in dict.fromkeys(one.metric for one in summary.extremes):
        galleries: list[Part] = []
        for one in summary.extremes:
            if one.metric == name and one.method not in summary.trivial and one.best:
                galleries.append(Gallery(f"{one.method}: best", _thumbs(one.best, places)))
                galleries.append(Gallery(f"{one.method}: worst", _thumbs(one.worst, places)))
        if galleries:
            folds.append(Fold(name, galleries))
    if not folds:
        return None
    words = "Where to look first. " + (
        "" if places else "The pictures are no longer where they were; here are their names."
    )
    return Section("Best and worst images", [words], folds)


def _thumbs(some: Sequence[tuple[str, float]], places: dict[str, int]) -> list[Thumb]:
    return [Thumb(image, digits(value), places.get(image)) for image, value in some]


def pictures_of(summary: Summary) -> tuple[dict[str, int], list[Image.Image]]:
    """Image -> its place among the page's pictures, and these."""
    shown: Sequence[Extremes] = [one for one in summary.extremes if one.method not in summary.trivial]
    wanted = list(dict.fromkeys(image for one in shown for image, _ in (*one.best, *one.worst)))[:MOST_PICTURES]
    places: dict[str, int] = {}
    pictures: list[Image.Image] = []
    for image, picture in summary.about.pictures(wanted).items():
        places[image] = len(pictures)
        pictures.append(ImageOps.fit(picture.convert("RGB"), (THUMB, THUMB), Image.Resampling.LANCZOS))
    return places, pictures
