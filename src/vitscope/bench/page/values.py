"""What was measured: in short, and of every metric its table, bars and curves."""

from __future__ import annotations

from collections.abc import Sequence

from vitscope.bench.findings import Line, MeanCurve
from vitscope.bench.names import short
from vitscope.bench.page.cells import in_order, table
from vitscope.bench.summary import Summary
from vitscope.bench.tables import Grid, grids
from vitscope.metrics import Facts
from vitscope.view.charts import Bar, Chart, Charts, Series, bars, lines
from vitscope.view.page import Cell, Fold, Part, Section, Table


def overview(summary: Summary) -> Section:
    """A table of the values that stand for their metrics, and the mean ranks."""
    grid = grids(summary).get("overview") or next(iter(grids(summary).values()))
    words = "One value a metric; all others follow below. A click on a heading sorts."
    return Section("In short", [words], [table(grid, summary), *_ranks(summary)])


def _ranks(summary: Summary) -> list[Part]:
    """Mean ranks by the values of the overview."""
    names = [name for name in summary.headlines if any(line.rank is not None for line in summary.of(name))]
    if not names:
        return []
    rows = {label: {line.metric: line for line in summary.lines if line.method == label} for label in in_order(summary)}
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


def metric(summary: Summary, name: str, grid: Grid) -> Section:
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
    parts: list[Part] = [table(grid, summary)]
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
    places = {label: place for place, label in enumerate(in_order(summary))}
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
