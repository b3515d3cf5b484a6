"""What a run's folder says: means with intervals, paired tests, ranks; computed and written beside its parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vitscope.bench.about import About
from vitscope.bench.find import find
from vitscope.bench.findings import Findings, Line, Settings
from vitscope.bench.names import computations_of
from vitscope.bench.page import page_of
from vitscope.bench.rows import Rows
from vitscope.bench.store import TABLES
from vitscope.bench.summary import Compared, Summary
from vitscope.bench.tables import curves_csv, lines_csv, pairs_csv, tables
from vitscope.errors import MethodError, VitscopeError
from vitscope.methods import Facts as MethodFacts
from vitscope.methods import as_method
from vitscope.metrics import Published, published


def summarise(
    folder: str | Path,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    write: bool = True,
) -> Summary:
    """Compute a run's summary, and write it into its folder.

    `summary.json`, `summary.csv`, `pairs.csv`, `curves.csv`, `tables/*.md`, `tables/*.tex` and `page.html`.

    Args:
        folder: that a run left: `manifest.json` and `parts/*.parquet`.
        confidence: of the intervals; 1 minus it is the level of the tests.
        resamples: draws of the bootstrap over images.
        seed: of all draws; the same seed gives the same summary.
        write: whether files are written.

    Raises:
        VitscopeError: the folder is no run's, has no row, or cannot be written into.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise VitscopeError(f"confidence={confidence}, resamples={resamples}; give one between 0 and 1, and 1 or more")
    found = _summary(Path(folder), Settings(confidence, resamples, seed))
    if write:
        write_all(found)
    return found


def write_all(summary: Summary) -> None:
    """Write every file of a summary into its folder.

    Raises:
        VitscopeError: it cannot be written into.
    """
    records = [asdict(line) for line in summary.lines]
    files = {
        "summary.json": json.dumps(records, indent=1, allow_nan=False) + "\n",
        "summary.csv": lines_csv(summary),
        "pairs.csv": pairs_csv(summary),
        "curves.csv": curves_csv(summary),
        **{f"{TABLES}/{name}": text for name, text in tables(summary).items()},
        "page.html": page_of(summary),
    }
    try:
        (summary.folder / TABLES).mkdir(exist_ok=True)
        for name, text in files.items():
            path = summary.folder / name
            unfinished = path.with_name(f".{path.name}.unfinished")
            unfinished.write_text(text, encoding="utf-8", newline="")
            unfinished.replace(path)
    except OSError as error:
        raise VitscopeError(
            f"{summary.folder} cannot be written into ({error}); make room or choose another"
        ) from error


def _summary(folder: Path, settings: Settings) -> Summary:
    about = About.read(folder)
    rows = Rows.open(folder)
    methods = {label: _facts(label) for label in about.in_order(rows.methods)}
    places = [rows.methods.index(label) for label in methods]
    trivial = [label for label, facts in methods.items() if facts is not None and facts.trivial]
    computations = computations_of(rows.metrics)
    parts: list[Findings] = []
    for one, block in zip(computations, rows.blocks([one.rows for one in computations]), strict=True):
        parts.append(find(one, block.of(places), list(methods), trivial, rows.images, settings))
    lines = [line for part in parts for line in part.lines]
    return Summary(
        folder=folder,
        about=about,
        settings=settings,
        methods=methods,
        computations=computations,
        lines=lines,
        pairs=[pair for part in parts for pair in part.pairs],
        curves=[curve for part in parts for curve in part.curves],
        classes=[mean for part in parts for mean in part.classes],
        extremes=[extreme for part in parts for extreme in part.extremes],
        compared=_compared(lines, about),
        images=len(rows.images),
        rows=rows.count,
        failures=rows.failures,
        failed=rows.failed,
    )


def _facts(label: str) -> MethodFacts | None:
    """Of a label, with options or without; None where no such method is registered."""
    try:
        return as_method(label).facts
    except MethodError:
        pass
    try:
        return as_method(label.partition(":")[0]).facts
    except MethodError:
        return None


def _compared(lines: Sequence[Line], about: About) -> list[Compared]:
    """Each measured number with the printed ones of the same metric and method."""
    return [
        Compared(line, printed, _differs(line, printed, about))
        for line in lines
        for printed in published(line.metric, line.method.partition(":")[0])
    ]


def _differs(line: Line, printed: Published, about: About) -> tuple[str, ...]:
    """In words; what cannot be shown to be the same is named with both sides."""
    of = f"{line.n} images of {about.dataset}" if about.dataset else f"{line.n} images"
    out = [f"images: here {of}, there {printed.dataset}"]
    out.append(f"model: here {about.model or 'unknown'}, there {printed.model}")
    if line.method.partition(":")[2]:
        out.append(f"options: here {line.method.partition(':')[2]}")
    if printed.note:
        out.append(f"protocol: {printed.note}")
    return tuple(out)
