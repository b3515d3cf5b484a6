"""Writes docs/performance-scale.md: python docs/make_scale.py [RUNS.json].

What is measured comes from RUNS.json, which `python benchmarks/scale.py tell OUT...` prints and which is kept beside
the page; what is counted (forwards of methods and metrics) from the registries; what is assumed of a GPU is in `GPUS`.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitscope.methods import as_methods, list_methods
from vitscope.metrics import PRESETS, GridMaps, Pictures, as_metrics, computations
from vitscope.metrics.forwards import UNALTERED

HERE = Path(__file__).parent
RUNS = HERE / "scale.json"
PAGE = HERE / "performance-scale.md"


@dataclass(frozen=True)
class Gpu:
    """What is assumed of a GPU.

    Attributes:
        name: it.
        peak: dense TFLOP/s by its data sheet, of the number format.
        share: of the peak that a forward of a batch reaches.
    """

    name: str
    peak: float
    share: float

    def rate(self, flops: float) -> float:
        """Forwards a second."""
        return self.peak * 1e12 * self.share / flops


GPUS = (
    Gpu("A100, float32", 19.5, 0.65),
    Gpu("A100, bf16", 312, 0.3),
    Gpu("H200, float32", 67, 0.6),
    Gpu("H200, bf16", 989, 0.25),
)
"""Peaks by the data sheets, dense; the shares are assumed. Torch's float32 multiplies matrices without TF32."""


@dataclass(frozen=True)
class Vit:
    """A plain vision transformer, as far as its cost goes."""

    name: str
    width: int
    depth: int
    tokens: int
    patch: int = 16

    @property
    def flops(self) -> float:
        """Of one forward: two a multiply-add, of the linear layers, the attention and the patches' embedding."""
        linear = 12 * self.width**2 * self.tokens
        attention = 2 * self.tokens**2 * self.width
        embedding = (self.tokens - 1) * 3 * self.patch**2 * self.width
        return 2.0 * (self.depth * (linear + attention) + embedding)


BASE = Vit("ViT-B/16, 224 px", 768, 12, 197)
SMALL = Vit("DeiT-S/16, 224 px", 384, 12, 197)
MILLION = 1_000_000
IMAGENET = 50_000
FLEET = (1, 8, 64)

GRID = 12 * 12
"""Patches of the bundled model."""

PAPERS = "daam,agcam,cdam"


def method_forwards(names: Iterable[str]) -> float:
    """Of methods in one pass: the pass, and what each costs beyond it; measured one at a time."""
    costs = {facts.name: facts.forwards for facts in list_methods()}
    return 1 + sum(max(0.0, costs[name] - 1) for name in names)


@dataclass(frozen=True)
class Count:
    """What a metric asks of the model for one picture.

    Attributes:
        each: forwards a method.
        shared: what names the forwards that are run once for all methods and metrics.
        explained: altered pictures, or altered models, on which every method is run again.
    """

    each: int = 0
    shared: frozenset[Hashable] = frozenset()
    explained: int = 0


def count(metric: Any, blocks: int = 12, side: int = 224, patch: int = 16) -> Count:
    """From the metric's own plan."""
    kind = metric.facts[0].kind
    label = torch.zeros(1, dtype=torch.long)
    picture = Pictures(torch.rand(1, 3, side, side), (patch, patch), (0.5,) * 3, (0.5,) * 3, label, label, (1,))
    if kind == "forward":
        keys = metric.plan(picture, GridMaps(torch.rand(1, side // patch, side // patch), (side, side))).keys
        return Count(sum(key is None for key in keys), frozenset(keys) - {None, UNALTERED})
    if kind != "explain":
        return Count()
    if hasattr(metric, "alterations"):
        return Count(explained=len(metric.alterations(picture)))
    return Count(explained=blocks + 2)  # weights randomised: the head, each block, the embedding


def metric_forwards(metrics: Sequence[str], methods: Sequence[str]) -> float:
    """Of a preset's metrics for all methods, beyond the maps."""
    asked = computations(as_metrics(metrics))
    counts = [count(metric) for metric in asked]
    again = method_forwards(methods)
    classes = {which for metric in asked for which in getattr(metric, "asks", ("explained",))}
    more = (len(classes) - 1) * (again - 1)  # another class costs a method no more than the first one did
    shared = len(frozenset().union(*(one.shared for one in counts)))
    return more + shared + sum(one.each * len(methods) + one.explained * again for one in counts)


def hours(forwards: float, model: Vit, gpu: Gpu) -> float:
    """On one GPU."""
    return forwards / gpu.rate(model.flops) / 3600


def named(groups: str) -> list[str]:
    return list(as_methods(groups))


FAST = [facts.name for facts in list_methods() if facts.family not in ("input-gradient", "perturbation")]
ALL = [facts.name for facts in list_methods()]


def page(runs: Sequence[Mapping[str, Any]]) -> str:
    """The whole page."""
    return "\n".join([HEAD, *measured(runs), "", *assumed(), "", *million(runs), "", *tables(), "", *ray(runs)]) + "\n"


HEAD = """# Scale

Written by `docs/make_scale.py`. **Measured** are the runs below, on CPU cores; **computed** is what stands under the
headings that say so: forwards counted from the measured costs of [the methods](methods/README.md) and the metrics' own
plans, times floating-point operations of one forward, over an assumed share of a GPU's peak. No GPU was at hand:
`python benchmarks/gpu.py` on yours replaces the assumption by a number.
"""


def measured(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "## Measured: long runs on drawn scenes",
        "",
        f"The bundled model, {runs[0]['machine']}, one thread a process, on a machine that others used meanwhile: the",
        "quartiles of the rate show it. Rows: `center,attention,cdam` by `energy`; maps: `daam,agcam,cdam` in float16.",
        "CPU time is that of all processes together, while parts are made, and hangs less on the others than the rate.",
        "Memory is the highest in each third of the run, in MiB: the command's and, with Ray, its largest worker's;",
        "the last third has the summary in it. The rate counts from the first finished part to the last.",
        "",
        "    python benchmarks/scale.py run rows OUT --count 20000 --seconds 280     # again until it is complete",
        "    python benchmarks/scale.py run rows OTHER --count 20000 --engine ray --workers 2 --seconds 280",
        "    python benchmarks/scale.py compare OUT OTHER",
        "    python benchmarks/scale.py tell OUT OTHER > runs.json && python docs/make_scale.py runs.json",
        "",
        "| run | images | engine | part | images/s | quartiles | CPU ms an image | start, s | bytes a row | memory |",
        "|---|--:|---|--:|--:|---|--:|--:|--:|---|",
    ]
    for run in runs:
        memory = run["memory_mib"]["command"].values()
        workers = run["memory_mib"]["worker"].values() if run["engine"] == "ray" else ()
        told = ", ".join(map(str, memory)) + (f"; a worker {', '.join(map(str, workers))}" if workers else "")
        lines.append(
            f"| {kind(run)} | {images(run):,} | {engine(run)} | {run['part']} | {run['images_per_second']:.1f} | "
            f"{' to '.join(f'{rate:.0f}' for rate in run['quartiles'])} | {_ms(run)} | "
            f"{run['start_s']:.0f} | {run['bytes'] / run['rows']:.0f} | {told} |"
        )
    return lines


def kind(run: Mapping[str, Any]) -> str:
    return "maps" if "explain" in run["command"].split()[1] else "rows"


def images(run: Mapping[str, Any]) -> int:
    words = run["command"].split()
    return run["rows"] // len(words[words.index("--methods") + 1].split(","))


def engine(run: Mapping[str, Any]) -> str:
    return "this process" if run["engine"] == "local" else f"Ray, {run['workers']}"


def assumed() -> list[str]:
    lines = [
        "## Computed: what a GPU does in a second",
        "",
        "| GPU | peak, TFLOP/s | assumed share | "
        + " | ".join(f"{one.name}, forwards/s" for one in (BASE, SMALL))
        + " |",
        "|---|--:|--:|--:|--:|",
    ]
    for gpu in GPUS:
        rates = " | ".join(f"{gpu.rate(model.flops):,.0f}" for model in (BASE, SMALL))
        lines.append(f"| {gpu.name} | {gpu.peak:.0f} | {gpu.share:.0%} | {rates} |")
    flops = " and ".join(f"{model.flops / 1e9:.1f} GFLOP ({model.name})" for model in (BASE, SMALL))
    return [*lines, "", f"One forward is {flops}. Reading and decoding the pictures is not in it."]


SETS = {
    PAPERS: PAPERS.split(","),
    f"all {len(FAST)} that do not alter the picture": FAST,
    f"all {len(ALL)}": ALL,
}


def million(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    a100, h200 = (next(gpu for gpu in GPUS if gpu.name.startswith(name)) for name in ("A100", "H200"))
    lines = [
        f"## Computed: maps of {MILLION:,} images, {BASE.name}",
        "",
        "| methods | forwards an image | "
        + " | ".join(f"hours, {gpu.name}, {n} GPU{'s' * (n > 1)}" for gpu in (a100, h200) for n in FLEET)
        + " | float16, GB |",
        "|---|--:|" + "--:|" * (2 * len(FLEET) + 1),
    ]
    each = map_bytes(runs, BASE)
    for name, methods in SETS.items():
        forwards = method_forwards(methods)
        times = [hours(forwards * MILLION, BASE, gpu) / n for gpu in (a100, h200) for n in FLEET]
        size = MILLION * len(methods) * each / 1e9
        lines.append(f"| {name} | {forwards:,.0f} | " + " | ".join(map(_hours, times)) + f" | {size:,.0f} |")
    return [
        *lines,
        "",
        f"Bytes: {each:.0f} a map of 14 x 14 with its row's other columns, from the measured files of maps of 12 x 12, "
        "whose column of values grows with the patches. A model of more than 64 classes keeps its 10 highest outputs, "
        "as many as the bundled one has.",
    ]


def map_bytes(runs: Sequence[Mapping[str, Any]], model: Vit) -> float:
    """Of one map of another grid, float16, with its row's other columns, from the measured run of maps."""
    found = next(run for run in runs if kind(run) == "maps")
    values = found["bytes_of_columns"]["values"]
    return (found["bytes"] - values + values * (model.tokens - 1) / GRID) / found["rows"]


TABLES = ("agcam", "daam", "segmentation", "abpc", "cdam", "chefer", "srg", "sanity", "all")


def tables() -> list[str]:
    gpu = next(gpu for gpu in GPUS if gpu.name.startswith("H200"))
    lines = [
        f"## Computed: tables on {IMAGENET:,} images, {BASE.name}",
        "",
        f"Forwards an image, and hours on one {gpu.name}; divide by the GPUs.",
        "",
        "| metrics | " + " | ".join(f"{name}: forwards | hours" for name in SETS) + " |",
        "|---|" + "--:|--:|" * len(SETS),
    ]
    for name in TABLES:
        cells = []
        for methods in SETS.values():
            forwards = method_forwards(methods) + metric_forwards(PRESETS[name].metrics, methods)
            cells.append(f"{forwards:,.0f} | {_hours(hours(forwards * IMAGENET, BASE, gpu))}")
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    dear = sorted(((facts.forwards, facts.name) for facts in list_methods()), reverse=True)[:5]
    counts = [(count(metric), metric.facts[0].name) for metric in computations(as_metrics(PRESETS["all"].metrics))]
    counts = sorted(counts, key=lambda one: -(one[0].each + one[0].explained))
    return [
        *lines,
        "",
        "The dearest methods: "
        + ", ".join(f"{name} {forwards:,.0f}" for forwards, name in dear)
        + " forwards. A metric that "
        "explains again runs every method again, so that these multiply: "
        + ", ".join(dict.fromkeys(f"{name} {one.explained} times" for one, name in counts if one.explained))
        + ". Forwards a method: "
        + ", ".join(dict.fromkeys(f"{name} {one.each}" for one, name in counts if one.each))
        + ". The methods that alter the picture are compared on 500 or 1 000 images, as their papers do; "
        "`--max-forwards` bounds them.",
    ]


def ray(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where Ray's overhead bites."""
    lines = ["## Measured: Ray beside one process", ""]
    local = {(kind(run), run["part"], images(run)): run for run in runs if run["engine"] == "local"}
    for run in runs:
        mine = local.get((kind(run), run["part"], images(run)))
        if run["engine"] == "ray" and mine is not None and run["cpu_s_an_image"] and mine["cpu_s_an_image"]:
            times = run["cpu_s_an_image"] / mine["cpu_s_an_image"]
            lines.append(
                f"- {kind(run)}, {images(run):,} images in parts of {run['part']}, workers: {run['workers']}. "
                f"{times:.2f} times the CPU time; {run['start_s'] - mine['start_s']:.0f} s more until the first part."
            )
    for name, cost in a_part(runs).items():
        told = (
            f"{1e3 * cost:.0f} ms of CPU a part beside its images"
            if cost > 0
            else "a part's own cost is below the noise"
        )
        lines.append(f"- {name}: {told}.")
    starts = [run["start_s"] for run in runs if run["engine"] == "ray"]
    return [*lines, "", *bites(statistics.median(starts))] if starts else lines


def a_part(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """CPU seconds that a part takes beside its images, by engine: from runs with parts of two sizes, else the same."""
    found: dict[tuple[str, str, int], dict[int, float]] = {}
    for run in runs:
        if run["cpu_s_an_image"]:
            found.setdefault((kind(run), engine(run), images(run)), {})[run["part"]] = run["cpu_s_an_image"]
    return {
        f"{key[1]}, {key[0]}": (each[small] - each[large]) / (1 / small - 1 / large)
        for key, each in found.items()
        if (small := min(each)) < (large := max(each))
    }


def _ms(run: Mapping[str, Any]) -> str:
    return f"{1e3 * run['cpu_s_an_image']:.1f}" if run["cpu_s_an_image"] else ""


def bites(start: float) -> list[str]:
    """What the measured start means for a cluster."""
    gpu, share = GPUS[2], 0.01
    least = start / share / 3600
    part = 64 * method_forwards(PAPERS.split(",")) / gpu.rate(BASE.flops)
    return [
        f"Computed from it: a start of {start:.0f} s is a hundredth of a run from {_hours(least)} hours on, with any "
        f"number of workers; with 8 GPUs that is {_hours(8 * least)} GPU hours of work, with 64 {_hours(64 * least)}. "
        f"Below that, fewer GPUs waste less. A part of 64 images with {PAPERS} is {part:.2f} s of an {gpu.name} "
        f"({BASE.name}), in the order of what a part takes beside its images: `--part-size 1024` there. For methods "
        "that alter the picture 64 is right: a part is then minutes, which is what an interruption loses."
    ]


def _hours(value: float) -> str:
    if value >= 10 or not math.isfinite(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def main() -> None:
    if len(sys.argv) > 1:
        RUNS.write_text(Path(sys.argv[1]).read_text())
    PAGE.write_text(page(json.loads(RUNS.read_text())))


if __name__ == "__main__":
    main()
