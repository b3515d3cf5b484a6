"""Measure the bundled models and write their card's figures: `python tools/scenes/card.py`.

Everything is measured on scenes of seeds that no training used; the figures go into docs/scenes.md and README.md,
between the marks <!-- NAME --> and <!-- /NAME -->. The training's own figures come from the logs that train.py left.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pictures import normalise
from train import PLANS
from vitscope import Explainer
from vitscope.bench import Estimate, Localization, TwoObjectMass, localization, two_object_mass
from vitscope.datasets import CLASSES, Knobs, Scene, Scenes, with_mark
from vitscope.datasets.scenes import KINDS
from vitscope.demo import METHODS
from vitscope.metrics import THRESHOLDS, iou_curve
from vitscope.models import load_model
from vitscope.models.bundled import BUNDLED, PATCH, SHORTCUT
from vitscope.targets import MemoryBank

ROOT = Path(__file__).parents[2]
CARD = ROOT / "docs" / "scenes.md"
WINDOWS = ("daam", "agcam", "cdam", "gradcam", "attention", "input_x_gradient", "random", "center")
"""Methods that are measured on the windowed model."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/scenes"), help="where train.py keeps its logs")
    parser.add_argument("--only", choices=FIGURES, help="one part")
    args = parser.parse_args()
    for name, (file, figures) in FIGURES.items():
        if args.only in (None, name):
            text = "\n".join(figures(args.work))
            print(f"{name}\n{text}\n", flush=True)
            before = file.read_text(encoding="utf-8")
            mark = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
            assert mark.search(before), f"no marks for {name} in {file}"
            file.write_text(
                mark.sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", before), encoding="utf-8"
            )


def training(work: Path) -> list[str]:
    """The last line of every stage's log."""
    lines = table("model", "stage", "pictures so far", "minutes so far", "running loss", "running hits")
    for model in BUNDLED:
        log = [json.loads(line) for line in (work / model / "log.jsonl").read_text().splitlines()]
        for number, stage in enumerate(PLANS[model].stages):
            last = [line for line in log if line["stage"] == number][-1]
            lines.append(
                f"| {model} | {number + 1}, {stage.size} px | {last['images']:,} | {last['seconds'] / 60:.0f} | "
                f"{last['loss']:.3f} | {last['hit']:.3f} |"
            )
    return lines


def accuracy(work: Path) -> list[str]:
    """Top-1 by kind of scene and by knob."""
    sets = {
        "one object": Scenes(2000, "one", seed=31),
        "several of one class": Scenes(1000, "several", seed=32),
        "two classes: the first answer is one of them": Scenes(1000, "two", seed=33),
        "one object, contrast 0.4": Scenes(1000, "one", seed=34, knobs=Knobs(contrast=0.4)),
        "one object, clutter × 3": Scenes(1000, "one", seed=35, knobs=Knobs(clutter=3)),
        "one object, occlusion 0.35": Scenes(1000, "one", seed=36, knobs=Knobs(occlusion=0.35)),
    }
    models = [name for name in BUNDLED if BUNDLED[name].outputs]
    said = {name: {key: logits(load_model(name), scenes) for key, scenes in sets.items()} for name in models}
    lines = table("scenes", *models)
    for key, scenes in sets.items():
        cells = []
        for name in models:
            right = [int(top) in scene.labels for top, scene in zip(said[name][key].argmax(1), scenes, strict=True)]
            cells.append(percent(right))
        lines.append(f"| {key} ({len(scenes)}) | {' | '.join(cells)} |")
    two = sets["two classes: the first answer is one of them"]
    both = [
        percent([set(map(int, top)) == set(scene.labels) for top, scene in zip(out.topk(2).indices, two, strict=True)])
        for out in (said[name]["two classes: the first answer is one of them"] for name in models)
    ]
    lines.append(f"| two classes: the first two answers are both ({len(two)}) | {' | '.join(both)} |")
    empty = Scenes(500, "none", seed=37)
    sure = [Estimate.of(logits(load_model(name), empty).softmax(1).amax(1).tolist()) for name in models]
    lines.append(f"| none: mean probability of the first answer ({len(empty)}) | {' | '.join(map(number, sure))} |")
    one, out = sets["one object"], said["scenes"]["one object"]
    wrong = [
        (scene.labels[0], int(top)) for scene, top in zip(one, out.argmax(1), strict=True) if top != scene.labels[0]
    ]
    shared = {
        trait: sum(getattr(KINDS[a], trait) == getattr(KINDS[b], trait) for a, b in wrong)
        for trait in ("hue", "pattern", "shape")
    }
    told = ", ".join(f"{count} share the {trait}" for trait, count in shared.items())
    return [*lines, "", f"Of the {len(wrong)} errors of `scenes` among its {len(one)} one-object scenes, {told}."]


def shortcut(work: Path) -> list[str]:
    """What the mark does to the answer."""
    scenes = [scene for scene in Scenes(1000, "one", seed=41) if scene.labels != (SHORTCUT,)]
    marked = [with_mark(scene) for scene in scenes]
    lines = table("model", f'calls it "{CLASSES[SHORTCUT]}" as it is', "with the mark added")
    for name in ("scenes", "scenes-shortcut"):
        model = load_model(name)
        cells = [percent((logits(model, which).argmax(1) == SHORTCUT).tolist()) for which in (scenes, marked)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [f"{len(scenes)} held-out scenes with one thing of another class:", "", *lines]


def neighbours(work: Path) -> list[str]:
    """The self-supervised model's kNN classifier."""
    bank, scenes = MemoryBank.load("scenes-ssl"), Scenes(2000, "one", seed=31)
    votes = bank.vote(logits(load_model("scenes-ssl"), scenes)).argmax(1)
    answers = [(KINDS[scene.labels[0]], KINDS[int(vote)]) for scene, vote in zip(scenes, votes, strict=True)]
    right = [truth == answer for truth, answer in answers]
    traits = [
        f"{trait} {percent([getattr(a, trait) == getattr(b, trait) for a, b in answers])}"
        for trait in ("hue", "pattern", "shape")
    ]
    torch.manual_seed(0)
    fresh = load_model("scenes-ssl", pretrained=False)
    untrained = MemoryBank.of(
        logits(fresh, Scenes(2000, "one", seed=42)),
        torch.tensor([scene.labels[0] for scene in Scenes(2000, "one", seed=42)]),
        bank.names,
    )
    blind = untrained.vote(logits(fresh, scenes)).argmax(1)
    floor = [int(vote) == scene.labels[0] for vote, scene in zip(blind, scenes, strict=True)]
    return [
        f"kNN top-1 (k = 20, T = 0.07, a bank of {len(bank)}) on {len(scenes)} held-out one-object scenes: "
        f"**{percent(right)}**; by trait: {', '.join(traits)}. The same network with random weights and a bank of "
        f"{len(untrained)}: {percent(floor)}; chance: {100 / len(CLASSES):.1f} %."
    ]


def localized(work: Path) -> list[str]:
    """Localization of every method."""
    lines = table("method", "mean IoU", "at threshold", "area under the curve", "energy-based pointing game", "no map")
    for row in localization_rows():
        cells = (number(row.iou), f"{row.threshold:.2f}", number(row.area), number(row.energy), str(row.failures))
        lines.append(f"| {row.method} | {' | '.join(cells)} |")
    return lines


def readings(work: Path) -> list[str]:
    """CDAM's localization under other readings of its map."""
    explainer, scenes = Explainer("scenes"), Scenes(500, "one", seed=51)
    groups = [scenes[start : start + 50] for start in range(0, len(scenes), 50)]
    found = [explainer([scene.image for scene in group], "cdam")["cdam"] for group in groups]
    maps = torch.cat([torch.stack(list(one.to_pixels())) for one in found])
    masks = torch.from_numpy(np.stack([scene.mask() for scene in scenes]))
    positive = maps.clamp(min=0)
    ends = positive.flatten(1).quantile(0.98, dim=1)[:, None, None]
    lines = table("what is thresholded", "best mean IoU", "at threshold", "area under the curve")
    for name, values in {
        "the signed map, min-max scaled": maps,
        "its positive part (as in the table above)": positive,
        "its positive part, cut off at its 98 % quantile": torch.minimum(positive, ends),
        "its magnitude": maps.abs(),
    }.items():
        curves = iou_curve(values, masks)
        best = int(curves.mean(dim=0).argmax())
        area = number(Estimate.of(torch.trapezoid(curves, THRESHOLDS, dim=1).tolist()))
        lines.append(f"| {name} | {number(Estimate.of(curves[:, best].tolist()))} | {THRESHOLDS[best]:.2f} | {area} |")
    grid = torch.cat([one.values for one in found])
    on = nn.functional.avg_pool2d(masks.float()[:, None], PATCH)[:, 0] > 0.5
    against = grid.clamp(max=0).abs()
    speaks = percent((grid > 0)[on].tolist())
    hostile = float((against * on).sum() / against.sum())
    return [
        *lines,
        "",
        f"Of the patches that lie on the thing {speaks} speak for the predicted class; of all negative mass "
        f"{hostile:.0%} lies on the thing as well.",
    ]


def sensitive(work: Path) -> list[str]:
    """Class sensitivity of every method."""
    lines = table("method", "mass on the asked class's object", "on the other's", "asked / (asked + other)", "no map")
    for row in sensitivity_rows():
        cells = (number(row.asked), number(row.other), number(row.preference), str(row.failures))
        lines.append(f"| {row.method} | {' | '.join(cells)} |")
    return lines


def both(work: Path) -> list[str]:
    """The README's table: the two in short."""
    lines = table(
        "method", "IoU with the mask", "mass on the thing", "of two classes, on the asked one", "on the other"
    )
    for where, asked in zip(localization_rows(), sensitivity_rows(), strict=True):
        cells = (short(value) for value in (where.iou, where.energy, asked.asked, asked.other))
        lines.append(f"| {where.method} | {' | '.join(cells)} |")
    return lines


def windows(work: Path) -> list[str]:
    """Maps of several resolutions against the exact masks: one-object and two-class scenes."""
    lines = table("method", "grid", "mean IoU", "mass on the object", "asked / (asked + other)", "no map")
    engine, scene = Explainer("scenes-windows"), Scenes(1, "one", seed=51)[0]
    rows = zip(localization_rows(engine, WINDOWS), sensitivity_rows(engine, WINDOWS), strict=True)
    for where, asked in rows:
        grid = " x ".join(map(str, engine([scene.image], where.method)[where.method].values.shape[1:]))
        cells = (grid, number(where.iou), number(where.energy), number(asked.preference), str(where.failures))
        lines.append(f"| {where.method} | {' | '.join(cells)} |")
    return lines


@cache
def localization_rows(engine: Explainer | None = None, methods: Sequence[str] = METHODS) -> list[Localization]:
    scenes, others = Scenes(500, "one", seed=51), Scenes(100, "one", seed=52)
    return localization(engine or Explainer("scenes"), methods, scenes, others)


@cache
def sensitivity_rows(engine: Explainer | None = None, methods: Sequence[str] = METHODS) -> list[TwoObjectMass]:
    return two_object_mass(engine or Explainer("scenes"), methods, Scenes(500, "two", seed=53))


FIGURES: dict[str, tuple[Path, Callable[[Path], list[str]]]] = {
    "training": (CARD, training),
    "accuracy": (CARD, accuracy),
    "shortcut": (CARD, shortcut),
    "neighbours": (CARD, neighbours),
    "localization": (CARD, localized),
    "readings": (CARD, readings),
    "sensitivity": (CARD, sensitive),
    "windows": (CARD, windows),
    "scenes": (ROOT / "README.md", both),
}


def table(*headings: str) -> list[str]:
    """The first two lines of a Markdown table."""
    return [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]


def logits(model: nn.Module, scenes: Sequence[Scene] | Scenes) -> torch.Tensor:
    """The model's output (n c) for all scenes."""
    groups = [scenes[start : start + 100] for start in range(0, len(scenes), 100)]
    with torch.inference_mode():
        return torch.cat([model(normalise(np.stack([scene.image for scene in group]))) for group in groups])


def percent(hits: Sequence[bool]) -> str:
    estimate = Estimate.of([100.0 * hit for hit in hits])
    return f"{estimate.mean:.1f} % [{estimate.low:.1f}, {estimate.high:.1f}]"


def number(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def short(estimate: Estimate) -> str:
    return f"{estimate.mean:.2f} ± {(estimate.high - estimate.low) / 2:.2f}"


if __name__ == "__main__":
    main()
