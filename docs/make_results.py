"""Writes the tables of docs/results.md from finished runs: python docs/make_results.py RUNS.

RUNS holds the folders that the commands on that page write. What is between the marks of the page is replaced; the
reading of the tables is written by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import spearmanr

from vitscope.bench.findings import Line
from vitscope.bench.summary import Summary, summarise
from vitscope.bench.tables import digits, settings_in_words
from vitscope.errors import VitscopeError
from vitscope.methods import FAMILIES

PAGE = Path(__file__).parent / "results.md"
SIDES = ("photographs", "scenes")
LEVEL = 0.05
NAMED = 6
"""Pairs that contradict each other, at most, by name."""


@dataclass(frozen=True)
class Value:
    """A column of two: a value as both data sets have it.

    Attributes:
        name: its full name.
        title: of its section.
        run: what follows the data set's name in its run's folder.
    """

    name: str
    title: str
    run: str = ""


VALUES = {
    "faithfulness": (
        Value("abpc/abpc", "ABPC: area between the perturbation curves of the true class's probability"),
        Value("srg/srg:steps=10", "SRG: symmetric relevance gain of the explained class's logit"),
    ),
    "class": (
        Value("class_sensitivity/spearman@second", "Rank correlation of the first and the second class's maps"),
        Value("class_sensitivity/pearson@second", "Correlation of the first and the second class's maps"),
    ),
    "compactness": (Value("compactness/share@0.05", "Compactness: share of values next to zero"),),
    "sanity": (
        Value("sanity/spearman", "Rank correlation with the map of weights randomised from the head down", "-sanity"),
        Value("sanity/ssim", "SSIM with the map of weights randomised from the head down", "-sanity"),
    ),
    "where": (
        Value("energy/share", "Energy-based pointing game: share of positive mass in the mask"),
        Value("daam/iou@0.05", "DAAM's IoU: the box of the largest component above .05"),
        Value("agcam/iou@0.5", "AG-CAM's IoU: the boxes of the components above .5"),
        Value("pointing/hit@15", "Pointing game"),
    ),
}


def section(value: Value, sides: Sequence[Summary]) -> str:
    """A value's table, and what holds on both data sets.

    Args:
        value: which.
        sides: the photographs' run and the scenes'.

    Raises:
        VitscopeError: a run has not measured it.
    """
    found = [{line.method: line for line in side.of(value.name)} for side in sides]
    for side, lines in zip(sides, found, strict=True):
        if not lines:
            raise VitscopeError(f"{side.folder}: has no {value.name}")
    first, second = found
    labels = [label for label in first if label in second]
    arrow = "↑" if first[labels[0]].higher_is_better else "↓"
    trivial = set(sides[0].trivial)
    heads = [f"{name} ({side.images})" for name, side in zip(SIDES, sides, strict=True)]
    lines = [f"| method {arrow} | {heads[0]} | {heads[1]} | beats the baselines |", "|---|---:|---:|---|"]
    for label in sorted(labels, key=lambda one: one in trivial):
        name = f"*{label}*" if label in trivial else label
        lines.append(f"| {name} | {_cell(first[label])} | {_cell(second[label])} | {_beats(first, second, label)} |")
    return "\n".join([f"### {value.title}", "", f"`{value.name}`", "", *lines, "", _both(value, sides, labels)])


def _cell(line: Line) -> str:
    if line.mean is None:
        return "–"
    text = digits(line.mean)
    shown = f"**{text}**" if line.best else f"<u>{text}</u>" if line.near_best else text
    ends = "" if line.low is None or line.high is None else f" [{digits(line.low)}, {digits(line.high)}]"
    return shown + ends + (f", n = {line.n}" if line.errors or line.undefined else "")


def _beats(first: dict[str, Line], second: dict[str, Line], label: str) -> str:
    told = (first[label].beats_trivial, second[label].beats_trivial)
    if None in told:
        return ""
    return {(True, True): "on both", (True, False): "photographs", (False, True): "scenes"}.get(told, "no")  # type: ignore[arg-type]


def _both(value: Value, sides: Sequence[Summary], labels: Sequence[str]) -> str:
    """How far the two data sets agree: order, pairs that are told apart, contradictions by name."""
    told = []
    for side in sides:
        pairs = [pair for pair in side.pairs if pair.metric == value.name]
        told.append({(pair.first, pair.second): pair for pair in pairs})
    shared = [key for key in told[0] if key in told[1]]
    apart = [key for key in shared if told[0][key].corrected < LEVEL and told[1][key].corrected < LEVEL]
    against = [key for key in apart if told[0][key].difference * told[1][key].difference < 0]
    means = [{line.method: line.mean for line in side.of(value.name)} for side in sides]
    compared = [label for label in labels if means[0][label] is not None and means[1][label] is not None]
    order = spearmanr([means[0][one] for one in compared], [means[1][one] for one in compared]).statistic
    of = f"{len(shared)} pairs of methods"
    text = (
        f"The order of the {len(compared)} methods on the two: Spearman {order:.2f}. Of {of}, {len(apart)} are told "
        f"apart on both; {len(apart) - len(against)} of these the same way"
    )
    if not against:
        return text + "."
    against.sort(key=lambda key: -min(abs(told[0][key].difference), abs(told[1][key].difference)))
    higher = next(line.higher_is_better for line in sides[0].of(value.name))
    named = [" over ".join(key if (told[0][key].difference > 0) == higher else key[::-1]) for key in against[:NAMED]]
    return (
        text
        + f". On the photographs {', '.join(named)}, on the scenes the other way"
        + (f" (and {len(against) - NAMED} pairs more)." if len(against) > NAMED else ".")
    )


def families(sides: Sequence[Summary], values: Sequence[Value]) -> str:
    """The best of each family on both data sets by a value, one line a family."""
    lines = ["| family | " + " | ".join(f"{value.name}: {name}" for value in values for name in SIDES) + " |"]
    lines.append("|---" * (1 + 2 * len(values)) + "|")
    for family in FAMILIES:
        cells = []
        for value in values:
            for side in sides:
                known = {line.method: line for line in side.of(value.name) if line.mean is not None}
                mine = [line for label, line in known.items() if _family(side, label) == family]
                if not mine:
                    cells.append("–")
                    continue
                sign = 1 if mine[0].higher_is_better else -1
                best = max(mine, key=lambda line: sign * (line.mean or 0.0))
                cells.append(f"{best.method} {digits(best.mean or 0.0)}")
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _family(side: Summary, label: str) -> str:
    facts = side.methods.get(label)
    return "" if facts is None else facts.family


def page(runs: Path) -> str:
    """The page with the tables of these runs."""
    text = PAGE.read_text()
    summaries: dict[str, list[Summary]] = {}
    for key, values in VALUES.items():
        for run in {value.run for value in values} - summaries.keys():
            summaries[run] = [summarise(runs / f"{side}{run}", write=False) for side in SIDES]
        tables = "\n\n".join(section(value, summaries[value.run]) for value in values)
        text = _between(text, key, tables)
    main = summaries[""]
    text = _between(text, "families", families(main, VALUES["faithfulness"]))
    return _between(text, "statistics", settings_in_words(main[0]))


def _between(text: str, key: str, content: str) -> str:
    marks = f"<!-- {key} -->", f"<!-- end of {key} -->"
    pattern = f"{re.escape(marks[0])}.*?{re.escape(marks[1])}"
    if not re.search(pattern, text, flags=re.DOTALL):
        raise VitscopeError(f"{PAGE}: has no {marks[0]} ... {marks[1]}")
    return re.sub(pattern, lambda _: f"{marks[0]}\n\n{content}\n\n{marks[1]}", text, flags=re.DOTALL)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/make_results.py RUNS")
    PAGE.write_text(page(Path(sys.argv[1])))
