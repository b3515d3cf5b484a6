"""Computes the table of docs/models.md from the models that the tests explain: python docs/make_models.py."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "models.md"
MARK = "<!-- TABLE -->"
sys.path.insert(0, str(ROOT))

from tests.zoo import ZOO, Entry, built  # noqa: E402

from vitscope import list_methods  # noqa: E402
from vitscope.methods import as_method, what_is_read, why_undefined  # noqa: E402
from vitscope.models import Anatomy, anatomy_of  # noqa: E402


def table() -> str:
    """The table and its footnotes, one for every distinct reason why a method does not apply."""
    entries = described()
    reasons: list[str] = []
    columns: dict[tuple[str, ...], list[str]] = {}  # methods that apply to the same models share a column
    for facts in list_methods():
        marks = tuple(_mark(why_undefined(anatomy, as_method(facts.name)), reasons) for _, anatomy in entries)
        columns.setdefault(marks, []).append(facts.name)
    heads = (", ".join(f"`{name}`" for name in names) for names in columns.values())
    lines = [_row("family", "model", "what methods read", "where", *heads), _row(*["---"] * (4 + len(columns)))]
    for index, (entry, anatomy) in enumerate(entries):
        cells = (marks[index] for marks in columns)
        lines.append(_row(entry.family, entry.name, what_is_read(anatomy), _where(anatomy), *cells))
    notes = [f"[^{number}]: {reason}." for number, reason in enumerate(reasons, start=1)]
    return "\n".join([*lines, "", *notes])


@functools.cache
def described() -> list[tuple[Entry, Anatomy]]:
    """The models of the table, and what is found in each."""
    return [(entry, anatomy_of(built(entry))) for entry in ZOO if entry.listed]


def verdicts() -> tuple[list[str], dict[str, list[str]]]:
    """The models' names, and for every method, in that order, why it does not apply to each, or ""."""
    names = [entry.name for entry, _ in described()]
    anatomies = [anatomy for _, anatomy in described()]
    methods = {facts.name: as_method(facts.name) for facts in list_methods()}
    return names, {name: [why_undefined(one, method) for one in anatomies] for name, method in methods.items()}


def page() -> str:
    """The whole page as it should be."""
    before, _, after = PAGE.read_text().split(MARK)
    return f"{before}{MARK}\n{table()}\n{MARK}{after}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _mark(reason: str, reasons: list[str]) -> str:
    """ "yes", or "no" with the number of its reason."""
    if not reason:
        return "yes"
    if reason not in reasons:
        reasons.append(reason)
    return f"no [^{reasons.index(reason) + 1}]"


def _where(anatomy: Anatomy) -> str:
    """The blocks or windows by their names in the model, and what the adapter says of them.

    Numbers are left out: the models of the tests are shallower than the published ones.
    """
    names = dict.fromkeys(re.sub(r"(?<![A-Za-z])\d+", "*", name) for name in _names(anatomy))
    note = re.sub(r"the \d+ blocks", "the blocks", anatomy.note)
    return ", ".join(f"`{name}`" for name in names) + (f"; {note}" if note else "")


def _names(anatomy: Anatomy) -> Iterator[str]:
    yield from (part.name for part in (*anatomy.blocks, *anatomy.windows))


if __name__ == "__main__":
    PAGE.write_text(page())
