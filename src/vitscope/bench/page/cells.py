"""A grid of values as a table: means with intervals, the best, and the methods that have shown nothing."""

from __future__ import annotations

from collections.abc import Callable

from vitscope.bench.findings import Line
from vitscope.bench.names import short
from vitscope.bench.summary import Summary
from vitscope.bench.tables import Grid, digits
from vitscope.view.page import Cell, Table


def in_order(summary: Summary) -> list[str]:
    """The methods as they were given, the trivial ones behind."""
    return sorted(summary.methods, key=lambda label: label in summary.trivial)


def table(grid: Grid, summary: Summary) -> Table:
    """A line a method, a column a value, and beneath it how many images stand behind it."""
    body = []
    for label, row in grid.rows.items():
        body.append([Cell(label), *(cell(line) for line in row)])
    heads = ["method"]
    for place, head in enumerate(grid.heads):
        way = next((line.higher_is_better for row in grid.rows.values() if (line := row[place]) is not None), None)
        heads.append(head + {True: " ↑", False: " ↓", None: ""}[way])
    return Table(heads, body, _counts(grid, summary), summary.trivial, sortable=True)


def cell(line: Line | None) -> Cell:
    """A mean with its interval; a dash where there is none."""
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
