"""A summary as CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields

from vitscope.bench.findings import Line
from vitscope.bench.names import short
from vitscope.bench.paired import Pair
from vitscope.bench.summary import Summary

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "≥": r"$\geq$",
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """Methods by values, as a paper's table has them; a cell is None where nothing was measured.

    Attributes:
        title: of the table.
        columns: full names of the values.
        heads: what stands above them, without arrows.
        rows: method -> a line a column.
        trivial: the baselines.
    """

    title: str
    columns: Sequence[str]
    heads: Sequence[str]
    rows: dict[str, list[Line | None]]
    trivial: Sequence[str]


def grids(summary: Summary) -> dict[str, Grid]:
    """One table a metric's group, and where there are several, one of the values that stand for them, first.

    Returns:
        name, fit for a file -> table.
    """
    groups: dict[str, list[str]] = {}
    for line in summary.lines:
        names = groups.setdefault(line.metric.partition("/")[0], [])
        if line.metric not in names:
            names.append(line.metric)
    found: dict[str, Grid] = {}
    if len(summary.headlines) > 1:
        found["overview"] = _grid(summary, "overview", summary.headlines, summary.headlines)
    for group, names in groups.items():
        key = name = re.sub(r"[^A-Za-z0-9_-]+", "-", group).strip("-") or "metric"
        number = 2
        while key.lower() in {one.lower() for one in found}:
            key, number = f"{name}-{number}", number + 1
        found[key] = _grid(summary, group, names, [short(one) for one in names])
    return found


def tables(summary: Summary) -> dict[str, str]:
    """File name -> text."""
    out = {}
    for name, grid in grids(summary).items():
        out[f"{name}.md"] = markdown(grid, summary)
        out[f"{name}.tex"] = latex(grid, summary)
    return out


def markdown(grid: Grid, summary: Summary) -> str:
    """As a Markdown table, with what its marks mean."""
    heads = ["method", *(f"{_md(head)}{_arrow(grid, k, '↑', '↓')}" for k, head in enumerate(grid.heads))]
    lines = [f"| {' | '.join(heads)} |", "|---" + "|---:" * len(grid.columns) + "|"]
    for method, row in grid.rows.items():
        name = f"*{_md(method)}*" if method in grid.trivial else _md(method)
        lines.append(f"| {name} | {' | '.join(_cell(line, '**{}**', '<u>{}</u>', '†', '–') for line in row)} |")
    return "\n".join(
        [f"# {_md(grid.title)}", "", *lines, "", _legend(summary, "**bold**", "<u>underlined</u>", "†"), ""]
    )


def latex(grid: Grid, summary: Summary) -> str:
    """As a LaTeX table for the package booktabs, with its caption; `\\input` it."""
    up, down = r"$\uparrow$", r"$\downarrow$"
    heads = ["method", *(f"{_tex(head)}{_arrow(grid, k, up, down)}" for k, head in enumerate(grid.heads))]
    body: list[str] = []
    apart = False
    for method, row in grid.rows.items():
        if method in grid.trivial and not apart and body:
            body.append(r"\midrule")
            apart = True
        cells = [_cell(line, r"\textbf{{{}}}", r"\underline{{{}}}", r"$^\dagger$", "--", tex=True) for line in row]
        body.append(" & ".join([_tex(method), *cells]) + r" \\")
    legend = _legend(summary, r"\textbf{bold}", r"\underline{underlined}", r"$^\dagger$", tex=True)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(grid.title)}. {legend}}}",
            rf"\begin{{tabular}}{{l{'r' * len(grid.columns)}}}",
            r"\toprule",
            " & ".join(heads) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def lines_csv(summary: Summary) -> str:
    """`summary.csv`: the columns of `Line`."""
    return _csv([one.name for one in fields(Line)], (astuple(line) for line in summary.lines))


def pairs_csv(summary: Summary) -> str:
    """`pairs.csv`: every paired test."""
    return _csv([one.name for one in fields(Pair)], (astuple(pair) for pair in summary.pairs))


def curves_csv(summary: Summary) -> str:
    """`curves.csv`: a row a point of a mean curve."""
    points = (
        (c.curve, c.method, *point, c.n)
        for c in summary.curves
        for point in zip(c.x, c.mean, c.low, c.high, strict=True)
    )
    return _csv(["curve", "method", "x", "mean", "low", "high", "n"], points)


def digits(value: float) -> str:
    """Three significant digits or three decimals, whichever is shorter."""
    size = abs(value)
    return f"{value:.3f}" if size < 10 and (size >= 0.001 or size == 0) else f"{value:.3g}"


def settings_in_words(summary: Summary) -> str:
    """How intervals and tests are made, one sentence each."""
    settings = summary.settings
    return (
        f"Intervals are of {settings.confidence:.0%}: percentile bootstrap over images, {settings.resamples} draws, "
        f"seed {settings.seed}. Tests: sign flips of the differences on the same images, for values of a whole set the "
        f"paired bootstrap; Holm's correction for each value's pairs of methods; level {1 - settings.confidence:.2g}."
    )


def _grid(summary: Summary, title: str, columns: Sequence[str], heads: Sequence[str]) -> Grid:
    at = {(line.method, line.metric): line for line in summary.lines}
    order = sorted(summary.methods, key=lambda label: label in summary.trivial)  # stable: the baselines come last
    rows = {method: [at.get((method, name)) for name in columns] for method in order}
    return Grid(title, columns, heads, rows, summary.trivial)


def _arrow(grid: Grid, column: int, up: str, down: str) -> str:
    line = next((row[column] for row in grid.rows.values() if row[column] is not None), None)
    return "" if line is None or line.higher_is_better is None else f" {up}" if line.higher_is_better else f" {down}"


def _cell(line: Line | None, bold: str, under: str, mark: str, nothing: str, tex: bool = False) -> str:
    if line is None or line.mean is None:
        return nothing
    text = digits(line.mean)
    shown = bold.format(text) if line.best else under.format(text) if line.near_best else text
    ends = f" [{digits(line.low)}, {digits(line.high)}]" if line.low is not None and line.high is not None else ""
    if tex:
        shown, ends = shown.replace("-", "$-$"), ends.replace("-", "$-$")
        ends = rf" {{\scriptsize{ends}}}" if ends else ""
    return f"{shown}{mark if line.beats_trivial is False else ''}{ends}"


def _legend(summary: Summary, bold: str, under: str, mark: str, tex: bool = False) -> str:
    baselines = ", ".join((_tex if tex else _md)(label) for label in summary.trivial)
    words = settings_in_words(summary)
    marks = f"{bold}: the best mean; {under}: not told apart from the best"
    marks += f"; {mark}: not better than each of {baselines}. " if baselines else ". No trivial baseline was run. "
    counts = f"{summary.images} images. "
    return marks + counts + (words.replace("%", r"\%") if tex else words)


def _md(text: str) -> str:
    """Escaped for Markdown and the HTML that it may hold; a name is on one line."""
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|#~!$])", r"\\\1", flat)


def _tex(text: str) -> str:
    """Escaped for LaTeX; a name is on one line."""
    return "".join(LATEX.get(letter, letter) for letter in " ".join(text.split()))


def _csv(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return buffer.getvalue()
