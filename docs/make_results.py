"""Writes the tables of docs/results.md from finished runs: python docs/make_results.py [RUNS].

RUNS holds the folders that the commands on that page write. The rows that the tables rest on are kept in docs/results/,
as folders of runs that vitscope reads; without RUNS the page is made from these. What is between the marks of the page
is replaced; the reading of the tables is written by hand. What methods are warned of by the sanity check goes into the
package.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.stats import spearmanr

from vitscope.bench.findings import Line
from vitscope.bench.paired import Pair
from vitscope.bench.plan import deciding, hash_of, parts_of
from vitscope.bench.store import MANIFEST, PARTS, Store
from vitscope.bench.summarise import summarise
from vitscope.bench.summary import Summary
from vitscope.bench.tables import digits, settings_in_words
from vitscope.errors import VitscopeError
from vitscope.methods import FAMILIES, Facts
from vitscope.methods import survival as survival_of

PAGE = Path(__file__).parent / "results.md"
KEPT = Path(__file__).parent / "results"
"""Runs with the rows of the tables alone."""
SURVIVAL = Path(survival_of.__file__).with_suffix(".json")
SIDES = ("photographs", "scenes")
SAMPLES = "-sanity-samples"
RUNS = {"": ("", "-dear"), "-sanity": ("-sanity", "-sanity-relevance", SAMPLES)}
"""What follows the data set's name in the folders of a kind of run: a method is read from the first that has it."""
LEVEL = 0.05
NAMED = 6
"""Pairs that contradict each other, at most, by name."""


@dataclass(frozen=True)
class Value:
    """A column of two: a value as both data sets have it.

    Attributes:
        name: its full name.
        title: of its section.
        run: the kind of run that measures it.
        of_classes: whether it compares the maps of classes.
    """

    name: str
    title: str
    run: str = ""
    of_classes: bool = False


VALUES = {
    "faithfulness": (
        Value(
            "abpc/abpc:map_of=predicted", "ABPC: area between the perturbation curves of the true class's probability"
        ),
        Value("srg/srg:steps=10", "SRG: symmetric relevance gain of the explained class's logit"),
    ),
    "class": (
        Value(
            "class_sensitivity/spearman@second",
            "Rank correlation of the first and the second class's maps",
            of_classes=True,
        ),
        Value(
            "class_sensitivity/pearson@second", "Correlation of the first and the second class's maps", of_classes=True
        ),
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


@dataclass(frozen=True)
class Side:
    """The runs of a kind on one data set; the first has most pictures, and its pairs of methods are compared."""

    runs: tuple[Summary, ...]

    @property
    def main(self) -> Summary:
        """The first."""
        return self.runs[0]

    def of(self, metric: str) -> dict[str, Line]:
        """Each method's line of a value."""
        found: dict[str, Line] = {}
        for run in self.runs:
            for line in run.of(metric):
                here = line if run is self.main else replace(line, best=False, near_best=False)
                found.setdefault(line.method, here)
        return found

    def pairs(self, metric: str) -> dict[tuple[str, str], Pair]:
        """The pairs of methods that share all pictures."""
        return {(pair.first, pair.second): pair for pair in self.main.pairs if pair.metric == metric}

    def facts(self, label: str) -> Facts | None:
        """Of a method, where it is registered."""
        return next((run.methods[label] for run in self.runs if label in run.methods), None)

    def family(self, label: str) -> str:
        """Of a method."""
        facts = self.facts(label)
        return "" if facts is None else facts.family

    def class_specific(self, label: str) -> bool:
        """Whether a method's map depends on the class, for all that is known."""
        facts = self.facts(label)
        return facts is None or facts.class_specific


def keep(run: Path, into: Path) -> None:
    """A run with the rows of the tables alone: its parts as they are numbered, so that it can be taken up again.

    Args:
        run: its folder.
        into: a folder for it; what is in it of the same run is replaced part by part.
    """
    manifest = json.loads((run / MANIFEST).read_text(encoding="utf-8"))
    whole, plan = Store(run, manifest.pop("hash")), manifest["plan"]
    for place, key in ((plan, "weights"), (plan["dataset"], "root")):
        if place[key] is not None:  # where they lay is nobody's concern
            place[key] = Path(place[key]).name
    kept = Store(into, hash_of(deciding(plan)))
    (into / PARTS).mkdir(parents=True, exist_ok=True)
    kept.write_manifest(manifest)
    names = pc.field("metric").isin([value.name for values in VALUES.values() for value in values])
    for part in parts_of(plan["dataset"]["count"], plan["part_size"]):
        if (facts := whole.facts(part)) is not None:
            kept.write(part, pq.read_table(whole.path(part)).filter(names), facts)


def sides(folder: Path, kind: str) -> list[Side]:
    """The runs of a kind on both data sets.

    Raises:
        VitscopeError: there is none on one of them.
    """
    found = []
    for side in SIDES:
        there = [folder / f"{side}{suffix}" for suffix in RUNS[kind] if (folder / f"{side}{suffix}").exists()]
        if not there:
            raise VitscopeError(f"{folder}: has no {side}{RUNS[kind][0]}; run the commands of {PAGE.name} first")
        found.append(Side(tuple(summarise(each, write=False) for each in there)))
    return found


def section(value: Value, both: Sequence[Side]) -> str:
    """A value's table, and what holds on both data sets.

    Args:
        value: which.
        both: the photographs' runs and the scenes'.

    Raises:
        VitscopeError: a run has not measured it.
    """
    found = [side.of(value.name) for side in both]
    for side, lines in zip(both, found, strict=True):
        if not lines:
            raise VitscopeError(f"{side.main.folder}: has no {value.name}")
    first, second = found
    labels = [label for label in first if label in second]
    arrow = "↑" if first[labels[0]].higher_is_better else "↓"
    trivial = set(both[0].main.trivial)
    heads = [f"{name} ({side.main.images})" for name, side in zip(SIDES, both, strict=True)]
    lines = [f"| method {arrow} | {heads[0]} | {heads[1]} | beats the baselines |", "|---|---:|---:|---|"]
    for label in sorted(labels, key=lambda one: one in trivial):
        name = f"*{label}*" if label in trivial else label
        cells = [_cell(lines[label], side.main.images) for lines, side in zip(found, both, strict=True)]
        deaf = value.of_classes and not both[0].class_specific(label)  # told from a baseline by rounding alone
        beats = "no" if deaf and label not in trivial else _beats(first, second, label)
        lines.append(f"| {name} | {' | '.join(cells)} | {beats} |")
    return "\n".join([f"### {value.title}", "", f"`{value.name}`", "", *lines, "", _on_both(value, both, found)])


def _cell(line: Line, images: int) -> str:
    if line.mean is None:
        return "–"
    text = digits(line.mean)
    shown = f"**{text}**" if line.best else f"<u>{text}</u>" if line.near_best else text
    ends = "" if line.low is None or line.high is None else f" [{digits(line.low)}, {digits(line.high)}]"
    return shown + ends + (f", n = {line.n}" if line.n != images else "")


def _beats(first: dict[str, Line], second: dict[str, Line], label: str) -> str:
    told = (first[label].beats_trivial, second[label].beats_trivial)
    if None in told:
        return ""
    return {(True, True): "on both", (True, False): "photographs", (False, True): "scenes"}.get(told, "no")  # type: ignore[arg-type]


def _on_both(value: Value, both: Sequence[Side], found: Sequence[dict[str, Line]]) -> str:
    """How far the two data sets agree: order, pairs that are told apart, contradictions by name."""
    told = [side.pairs(value.name) for side in both]
    shared = [key for key in told[0] if key in told[1]]
    apart = [key for key in shared if told[0][key].corrected < LEVEL and told[1][key].corrected < LEVEL]
    against = [key for key in apart if told[0][key].difference * told[1][key].difference < 0]
    first, second = found
    means = [(line.mean, second[label].mean) for label, line in first.items() if label in second]
    compared = [pair for pair in means if None not in pair]
    order = spearmanr(*zip(*compared, strict=True)).statistic
    of = f"{len(shared)} pairs of methods"
    text = (
        f"The order of the {len(compared)} methods on the two: Spearman {order:.2f}. Of {of}, {len(apart)} are told "
        f"apart on both; {len(apart) - len(against)} of these the same way"
    )
    if not against:
        return text + "."
    against.sort(key=lambda key: -min(abs(told[0][key].difference), abs(told[1][key].difference)))
    higher = next(iter(first.values())).higher_is_better
    named = [" over ".join(key if (told[0][key].difference > 0) == higher else key[::-1]) for key in against[:NAMED]]
    return (
        text
        + f". On the photographs {', '.join(named)}, on the scenes the other way"
        + (f" (and {len(against) - NAMED} pairs more)." if len(against) > NAMED else ".")
    )


def families(both: Sequence[Side], values: Sequence[Value]) -> str:
    """The best of each family on both data sets by a value, one line a family."""
    lines = ["| family | " + " | ".join(f"{value.name}: {name}" for value in values for name in SIDES) + " |"]
    lines.append("|---" * (1 + 2 * len(values)) + "|")
    for family in FAMILIES:
        cells = []
        for value in values:
            for side in both:
                mine = [
                    (line.mean if line.higher_is_better else -line.mean, line)
                    for label, line in side.of(value.name).items()
                    if line.mean is not None and side.family(label) == family
                ]
                best = max(mine, key=lambda pair: pair[0])[1] if mine else None
                cells.append("–" if best is None or best.mean is None else f"{best.method} {digits(best.mean)}")
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(known: Mapping[str, Sequence[Side]]) -> str:
    """The page with the tables of these kinds of runs; those of other kinds stay as they are."""
    text = PAGE.read_text()
    for key, values in VALUES.items():
        if any(value.run not in known for value in values):
            continue
        text = _between(text, key, "\n\n".join(section(value, known[value.run]) for value in values))
    text = _between(text, "families", families(known[""], VALUES["faithfulness"]))
    return _between(text, "statistics", settings_in_words(known[""][0].main))


def survival(both: Sequence[Side]) -> str:
    """What `vitscope.methods.survival` reads: each method's mean rank correlation on both data sets.

    Without the methods that were given fewer samples than they take by default: what these show may be the samples.
    """
    name = VALUES["sanity"][0].name
    whole = [Side(tuple(run for run in side.runs if not run.folder.name.endswith(SAMPLES))) for side in both]
    found = {
        model: {
            label: round(line.mean, 3)
            for label, line in side.of(name).items()
            if line.mean is not None and side.family(label) != "trivial"
        }
        for model, side in zip(SIDES, whole, strict=True)
    }
    return json.dumps(found, indent=1) + "\n"


def _between(text: str, key: str, content: str) -> str:
    marks = f"<!-- {key} -->", f"<!-- end of {key} -->"
    pattern = f"{re.escape(marks[0])}.*?{re.escape(marks[1])}"
    if not re.search(pattern, text, flags=re.DOTALL):
        raise VitscopeError(f"{PAGE}: has no {marks[0]} ... {marks[1]}")
    return re.sub(pattern, lambda _: f"{marks[0]}\n\n{content}\n\n{marks[1]}", text, flags=re.DOTALL)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit("usage: python docs/make_results.py [RUNS]")
    if len(sys.argv) == 2:
        runs = Path(sys.argv[1])
        for name in (f"{side}{suffix}" for side in SIDES for suffixes in RUNS.values() for suffix in suffixes):
            if (runs / name).is_dir():
                keep(runs / name, KEPT / name)
    known = {kind: sides(KEPT, kind) for kind in RUNS if all((KEPT / f"{side}{kind}").exists() for side in SIDES)}
    PAGE.write_text(page(known))
    if "-sanity" in known:
        SURVIVAL.write_text(survival(known["-sanity"]))
