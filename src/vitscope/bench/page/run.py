"""What stands beside the values: printed numbers, the methods' cautions, what failed, and what was run."""

from __future__ import annotations

from vitscope.bench.page.cells import cell, in_order
from vitscope.bench.summary import Summary
from vitscope.bench.tables import digits
from vitscope.view.page import Cell, Fold, Section, Table


def published(summary: Summary) -> Section | None:
    """Printed numbers beside the measured ones."""
    if not summary.compared:
        return None
    body = [
        [
            Cell(one.line.metric),
            Cell(one.line.method),
            cell(one.line),
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


def cautions(summary: Summary) -> Section:
    """What every method's map does not say."""
    body = []
    for label in in_order(summary):
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


def failures(summary: Summary) -> Section | None:
    """Rows without a value, by what went wrong."""
    if not summary.failures:
        return None
    body = [
        [Cell(one.method), Cell(str(one.rows), order=one.rows), Cell(one.image), Cell(one.error)]
        for one in summary.failures
    ]
    words = f"{summary.failed} of {summary.rows} rows have no value; they are left out of every mean, and counted."
    return Section("What failed", [words], [Table(["method", "rows", "first image", "why"], body, sortable=True)])


def skipped(summary: Summary) -> Section | None:
    """What the plan left out, and why."""
    if not summary.about.skipped:
        return None
    body = [[Cell(name), Cell(why)] for name, why in summary.about.skipped.items()]
    return Section("Not measured", [], [Table(["value", "why"], body)])


def ran(summary: Summary) -> Section:
    """The manifest."""
    body = [[Cell(key), Cell(text)] for key, text in summary.about.lines()]
    return Section(
        "What was run", ["From the run's manifest."], [Fold("manifest.json", [Table(["entry", "value"], body)])]
    )
