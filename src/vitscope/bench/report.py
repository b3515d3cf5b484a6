"""The page of a run: what was measured, how sure it is, what was run, and what to be careful of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version

from PIL import Image, ImageOps

from vitscope.bench.findings import Extremes, Line, MeanCurve
from vitscope.bench.names import short
from vitscope.bench.summary import Summary
from vitscope.bench.tables import Grid, digits, grids, settings_in_words
from vitscope.metrics import Facts
from vitscope.view.charts import Bar, Chart, Charts, Series, bars, lines
from vitscope.view.page import Cell, Fold, Gallery, Part, Section, Table, Thumb, page

THUMB = 112
"""Side of a small picture, in pixels."""

CLASSES, LEAST = 5, 3
"""Classes that are shown as best and as worst, each; images that a class must have."""

MOST_PICTURES = 400
"""Different pictures that a page keeps; of others the names are shown."""


def page_of(summary: Summary) -> str:
    """The page as HTML, everything in it."""
    places, pictures = _pictures(summary)
    about = summary.about
    what = " on ".join(filter(None, (about.model, about.dataset)))
    lead = [
        f"{len(summary.methods)} methods{f', {what}' if what else ''}: {summary.images} images, {summary.rows} rows.",
        "A method that is not better than each of the maps that know nothing of the model has shown nothing here; it "
        "is marked †. The best mean is bold; what cannot be told apart from it is underlined.",
        settings_in_words(summary),
    ]
    lead += about.remarks
    if summary.failed:
        lead.append(f"{summary.failed} rows failed; see What failed.")
    sections = [
        _overview(summary),
        *(_metric(summary, name, grid) for name, grid in grids(summary).items() if name != "overview"),
        _by_class(summary),
        _extremes(summary, places),
        _published(summary),
        _cautions(summary),
        _failures(summary),
        _skipped(summary),
        _ran(summary),
    ]
    versions = f"vitscope {version('vitscope')}; seed {summary.settings.seed}"
    return page("vitscope: benchmark", lead, [one for one in sections if one is not None], versions, pictures)


def _overview(summary: Summary) -> Section:
    """A table of the values that stand for their metrics, and the mean ranks."""
    grid = grids(summary).get("overview") or next(iter(grids(summary).values()))
    words = "One value a metric; all others follow below. A click on a heading sorts."
    return Section("In short", [words], [_table(grid, summary), *_ranks(summary)])


def _ranks(summary: Summary) -> list[Part]:
    """Mean ranks by the values of the overview."""
    names = [name for name in summary.headlines if any(line.rank is not None for line in summary.of(name))]
    if not names:
        return []
    rows = {label: {line.metric: line for line in summary.lines if line.method == label} for label in _order(summary)}
    body = []
    for label, mine in rows.items():
        cells = [Cell(label)]
        for name in names:
            line = mine.get(name)
            if line is None or line.rank is None:
                cells.append(Cell("–"))
            else:
                ends = "" if line.rank_low is None else f"[{line.rank_low:.2f}, {line.rank_high:.2f}]"
                cells.append(Cell(f"{line.rank:.2f}", ends, order=line.rank))
        body.append(cells)
    counts = ", ".join(f"{name} {max(line.ranked for line in summary.of(name))}" for name in names)
    note = f"Mean rank over the images on which every method has a value, 1 is the best. Images: {counts}."
    return [Fold("Ranks", [Table(["method", *names], body, note, summary.trivial, sortable=True)])]


def _metric(summary: Summary, name: str, grid: Grid) -> Section:
    """One group of values: titles, table, bars, curves."""
    facts = {full: one for c in summary.computations for full, one in (c.values | c.over_set).items()}
    titles = [_title(full, facts.get(full)) for full in grid.columns]
    sources = dict.fromkeys(one.paper for full in grid.columns if (one := facts.get(full)) is not None)
    words = "; ".join(titles) + "." + (f" Protocol: {', '.join(sources)}." if sources else "")
    notes = dict.fromkeys(
        f"{line.method}, {short(line.metric)}: {line.note}."
        for full in grid.columns
        for line in summary.of(full)
        if line.note
    )
    parts: list[Part] = [_table(grid, summary)]
    charts = [_bar_chart(summary, full) for full in grid.columns if _measured(summary, full)]
    parts.append(Fold("As bars, with intervals", [Charts(charts)]) if len(charts) > 1 else Charts(charts))
    for computed in summary.computations:
        mine = computed.group == grid.title
        shown = [c for c in summary.curves if mine and _belongs(c.curve, computed.group, computed.ends)]
        if shown:
            parts.append(_curve_charts(summary, shown))
    return Section(grid.title, [words, *notes], parts)


def _belongs(curve: str, group: str, ends: str) -> bool:
    return curve.startswith(f"{group}/") and curve.endswith(ends) and ":" not in curve.removesuffix(ends)


def _title(full: str, facts: Facts | None) -> str:
    if facts is None:
        return f"{short(full)}: not registered here, direction unknown"
    ways = {True: "higher is better", False: "lower is better", None: "neither way is better"}
    word = facts.title.split()[0]
    lower = facts.title[:1].lower() + facts.title[1:] if word[1:].islower() else facts.title
    return f"{short(full)}: {lower} ({ways[facts.higher_is_better]})"


def _measured(summary: Summary, full: str) -> list[Line]:
    return [line for line in summary.of(full) if line.mean is not None]


def _table(grid: Grid, summary: Summary) -> Table:
    body = []
    for label, row in grid.rows.items():
        body.append([Cell(label), *(_cell(line) for line in row)])
    heads = ["method"]
    for place, head in enumerate(grid.heads):
        way = next((line.higher_is_better for row in grid.rows.values() if (line := row[place]) is not None), None)
        heads.append(head + {True: " ↑", False: " ↓", None: ""}[way])
    return Table(heads, body, _counts(grid, summary), summary.trivial, sortable=True)


def _cell(line: Line | None) -> Cell:
    if line is None or line.mean is None:
        return Cell("–")
    ends = f"[{digits(line.low)}, {digits(line.high)}]" if line.low is not None and line.high is not None else ""
    kinds = ("best",) if line.best else ("near",) if line.near_best else ()
    return Cell(f"{digits(line.mean)}{'†' if line.beats_trivial is False else ''}", ends, kinds=kinds, order=line.mean)


def _counts(grid: Grid, summary: Summary) -> str:
    """How many images stand behind a table, and where some are left out."""
    there = [line for row in grid.rows.values() for line in row if line is not None]
    counts = sorted({line.n for line in there})
    out = [f"n = {counts[0]}" if len(counts) == 1 else f"n from {counts[0]} to {counts[-1]}"]
    for what, of in _LEFT_OUT.items():
        worst = max(there, key=of)
        if of(worst):
            out.append(f"{what}: up to {of(worst)} ({worst.method}, {short(worst.metric)})")
    if not summary.trivial:
        out.append("no trivial baseline was run")
    return "; ".join(out) + "."


_LEFT_OUT: dict[str, Callable[[Line], int]] = {
    "failed": lambda line: line.errors,
    "not defined": lambda line: line.undefined,
    "without a row": lambda line: line.missing,
}


def _bar_chart(summary: Summary, full: str) -> Chart:
    measured = _measured(summary, full)
    higher = measured[0].higher_is_better
    if higher is not None:
        measured.sort(key=lambda line: -(line.mean or 0) if higher else (line.mean or 0))
    entries = [
        Bar(line.method, line.mean or 0.0, line.low, line.high, line.method in summary.trivial, line.best)
        for line in measured
    ]
    way = {True: " ↑", False: " ↓", None: ""}[higher]
    return Chart(f"{short(full)}{way}", bars(entries, full))


def _curve_charts(summary: Summary, curves: Sequence[MeanCurve]) -> Charts:
    places = {label: place for place, label in enumerate(_order(summary))}
    trivial = summary.trivial
    labels = list(dict.fromkeys(one.method for one in curves))
    charts = []
    for name in dict.fromkeys(one.curve for one in curves):
        mine = [one for one in curves if one.curve == name]
        series = [
            Series(c.method, c.x, c.mean, c.low, c.high, _place(c.method, places, trivial), c.method in trivial)
            for c in mine
        ]
        values = [y for c in mine for y in c.mean if y is not None]
        charts.append(
            Chart(
                short(name), lines(series, _x_name(name), name, bool(values) and min(values) >= 0 and max(values) <= 1)
            )
        )
    return Charts(charts, [(label, _place(label, places, trivial), label in trivial) for label in labels])


def _place(label: str, places: dict[str, int], trivial: Sequence[str]) -> int:
    return 1000 + trivial.index(label) if label in trivial else places[label]


def _x_name(name: str) -> str:
    group = name.partition("/")[0]
    return {
        "curve": "threshold of the map",
        "maxbox": "threshold of the map",
        "sanity": "layers from the head down",
    }.get(group, "share of the picture that is altered")


def _order(summary: Summary) -> list[str]:
    return sorted(summary.methods, key=lambda label: label in summary.trivial)


def _by_class(summary: Summary) -> Section | None:
    """The worst and the best classes by every value of the overview."""
    folds: list[Part] = []
    methods = _order(summary)
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


def _extremes(summary: Summary, places: dict[str, int]) -> Section | None:
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


def _pictures(summary: Summary) -> tuple[dict[str, int], list[Image.Image]]:
    """Image -> its place among the page's pictures, and these."""
    shown: Sequence[Extremes] = [one for one in summary.extremes if one.method not in summary.trivial]
    wanted = list(dict.fromkeys(image for one in shown for image, _ in (*one.best, *one.worst)))[:MOST_PICTURES]
    places: dict[str, int] = {}
    pictures: list[Image.Image] = []
    for image, picture in summary.about.pictures(wanted).items():
        places[image] = len(pictures)
        pictures.append(ImageOps.fit(picture.convert("RGB"), (THUMB, THUMB), Image.Resampling.LANCZOS))
    return places, pictures


def _published(summary: Summary) -> Section | None:
    """Printed numbers beside the measured ones."""
    if not summary.compared:
        return None
    body = [
        [
            Cell(one.line.metric),
            Cell(one.line.method),
            _cell(one.line),
            Cell(digits(one.printed.value), one.printed.source, order=one.printed.value),
            Cell("; ".join(one.differs)),
        ]
        for one in summary.compared
    ]
    words = "What papers print for these methods and metrics. Another model or other images give other numbers."
    return Section(
        "Beside published numbers",
        [words],
        [Table(["metric", "method", "here", "printed", "what differs"], body, sortable=True)],
    )


def _cautions(summary: Summary) -> Section:
    """What every method's map does not say."""
    body = []
    for label in _order(summary):
        facts = summary.methods[label]
        if facts is None:
            body.append([Cell(label), Cell("not registered here"), Cell("–"), Cell("–")])
        else:
            sign = "signed" if facts.signed else "unsigned"
            asked = "asks for a class" if facts.class_specific else "the same for every class"
            body.append([Cell(label), Cell(facts.title, facts.paper), Cell(f"{sign}, {asked}"), Cell(facts.caution)])
    return Section(
        "The methods, and what to be careful of",
        [],
        [Table(["method", "what it is", "its maps", "caution"], body, "", summary.trivial)],
    )


def _failures(summary: Summary) -> Section | None:
    if not summary.failures:
        return None
    body = [
        [Cell(one.method), Cell(str(one.rows), order=one.rows), Cell(one.image), Cell(one.error)]
        for one in summary.failures
    ]
    words = f"{summary.failed} of {summary.rows} rows have no value; they are left out of every mean, and counted."
    return Section("What failed", [words], [Table(["method", "rows", "first image", "why"], body, sortable=True)])


def _skipped(summary: Summary) -> Section | None:
    if not summary.about.skipped:
        return None
    body = [[Cell(name), Cell(why)] for name, why in summary.about.skipped.items()]
    return Section("Not measured", [], [Table(["value", "why"], body)])


def _ran(summary: Summary) -> Section:
    """The manifest."""
    body = [[Cell(key), Cell(text)] for key, text in summary.about.lines()]
    return Section(
        "What was run", ["From the run's manifest."], [Fold("manifest.json", [Table(["entry", "value"], body)])]
    )
