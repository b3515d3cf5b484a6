"""Open questions with measures of their own: python experiments/questions.py [QUESTION].

instances: of several things of one class, how many does a map find? concepts: does a concept from five pictures point
at its thing among two? neighbours: how many neighbours should DAAM's self-supervised branch ask? depth: what does a
block's share of the evidence predict? homogeneous: where are AG-CAM's peaks when the background has one colour?
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch

from common import Case, World, share, show, table, worlds
from vitscope import Explainer
from vitscope.bench import Estimate
from vitscope.datasets import CLASSES, Scenes
from vitscope.flow import attention_flow
from vitscope.targets import Concept, MemoryBank, Neighbours

Pair = tuple[float, float]

FOUND = 0.5
"""A thing is found where its mean value is at least so many times that of the thing with the highest."""


def instances(count: int) -> str:
    """Of several things of one class, the share whose mean positive value is half of the strongest's or more."""
    methods = ["daam", "agcam", "cdam", "smooth_cdam", "integrated_cdam", "attention"]

    def of(world: World) -> str:
        found: dict[str, list[float]] = {label: [] for label in methods}
        whole: dict[str, list[float]] = {label: [] for label in methods}
        for case in world.cases:
            explanation = world.explainer([case.picture], methods, strict=False)
            for label, attribution in explanation.attributions.items():
                values = attribution.to_pixels()[0].clamp(min=0)
                seen = [values[torch.from_numpy(thing)] for thing in case.things]
                means = [float(inside.nanmean()) for inside in seen if inside.isfinite().any()]
                if len(means) > 1 and max(means) > 0:
                    hits = [mean >= FOUND * max(means) for mean in means]
                    found[label].append(float(np.mean(hits)))
                    whole[label].append(float(all(hits)))
        rows = [[label, show(Estimate.of(found[label])), show(Estimate.of(whole[label]))] for label in methods]
        return table(["method", "share of the things found", "pictures with all found"], rows)

    return everywhere(of, count, "several", seed=72)


def concepts(count: int) -> str:
    """A concept from five one-object scenes of a class, asked of two-object scenes with a thing of that class."""
    explainer = Explainer("scenes")
    examples = {
        label: [s.image for s in Scenes(400, "one", seed=73) if s.labels == (label,)][:5] for label in range(12)
    }
    vectors = {label: explainer.features(images) for label, images in examples.items()}
    wider = torch.cat(list(vectors.values())).mean(dim=0)
    names = ["concept, cdam", "concept less the mean of all, cdam", "concept, daam", "class logit, cdam", "attention"]
    on: dict[str, list[float]] = {name: [] for name in names}
    preferred: dict[str, list[float]] = {name: [] for name in names}
    for scene in Scenes(count, "two", seed=74):
        evidence = explainer.evidence([scene.image])
        still = explainer([scene.image], "attention")["attention"].to_pixels()[0]
        to_pixels = evidence.subject.geometries[0].to_original
        for label, other in (scene.labels, scene.labels[::-1]):
            vector = vectors[label].mean(dim=0)
            accumulated = explainer([scene.image], "daam", Concept(vectors[label]))["daam"].to_pixels()[0]
            maps = (
                to_pixels(evidence.of(vector)[0]),
                to_pixels(evidence.of(vector - wider)[0]),
                accumulated,
                to_pixels(evidence[label][0]),
                still,
            )
            for name, values in zip(names, maps, strict=True):
                mine, theirs = share(values, scene.mask(label)), share(values, scene.mask(other))
                on[name].append(mine)
                preferred[name].append(float(mine > theirs))
    rows = [[name, show(Estimate.of(on[name])), show(Estimate.of(preferred[name]))] for name in names]
    return table(["map", "positive mass on the asked thing", "asked thing preferred"], rows)


def neighbours(count: int) -> str:
    """DAAM's K and weighting: scenes on the self-supervised model; photographs with one another as the bank."""

    def rows(explainer: Explainer, bank: MemoryBank, cases: Sequence[Case], weighting: str, k: int) -> list[Pair]:
        target = Neighbours(bank, k=k, weighting=weighting)
        found = []
        for case in cases:
            voted = int(target.voted(explainer.features([case.picture])))
            values = explainer([case.picture], "daam", target, strict=False)["daam"].to_pixels()[0]
            found.append((float(voted == case.label), share(values, case.mask)))
        return found

    tables = []
    for world in worlds(count, seed=75):
        if world.name.startswith("scenes"):
            parts = [(Explainer("scenes-ssl"), MemoryBank.load("scenes-ssl"), world.cases)]
        else:
            halves = (world.cases[::2], world.cases[1::2])
            parts = [(world.explainer, _bank(world.explainer, halves[1 - own]), halves[own]) for own in (0, 1)]
        lines = []
        for weighting in ("official", "equation"):
            for k in (k for k in (5, 10, 20, 50) if k <= min(len(bank) for _, bank, _ in parts)):
                pairs = [pair for part in parts for pair in rows(*part, weighting, k)]
                right, shares = (Estimate.of(list(column)) for column in zip(*pairs, strict=True))
                lines.append([weighting, str(k), show(right), show(shares)])
        heading = ["weighting", "K", "voted class is right", "positive mass on the thing"]
        tables.append(f"{world.name}\n\n{table(heading, lines)}")
    return "\n\n".join(tables)


def _bank(explainer: Explainer, cases: Sequence[Case]) -> MemoryBank:
    features = torch.cat([explainer.features([case.picture]) for case in cases])
    return MemoryBank.of(features, torch.tensor([case.label for case in cases]), explainer.names)


def depth(count: int) -> str:
    """Share of evidence a block against the drop of the logit without its attention."""

    def of(world: World) -> str:
        images = [case.picture for case in world.cases]
        rows = []
        for method in ("daam", "agcam"):
            for left_out in ("all", "read"):
                flow = attention_flow(world.explainer, images, method, rows=left_out)
                known = flow.correlation[flow.correlation.isfinite()]
                what = "every token's" if left_out == "all" else "the class token's"
                rows.append([method, what, show(Estimate.of(flow.half.tolist())), show(Estimate.of(known.tolist()))])
        return table(["method", "attention left out", "half of the evidence after blocks", "rank correlation"], rows)

    return everywhere(of, count, seed=76)


def homogeneous(count: int) -> str:
    """AG-CAM's peaks in the background, as it is and painted in its mean colour, by what guides the gradient."""
    guides = ("sigmoid", "softmax", "instance_norm")

    def of(world: World) -> str:
        rows = []
        for what in ("as it is", "one colour"):
            strays: dict[str, list[float]] = {guide: [] for guide in guides}
            leaks: dict[str, list[float]] = {guide: [] for guide in guides}
            for case in world.cases:
                image, thing = case.pixels.copy(), case.mask
                far = ~_widened(thing)
                label = world.explainer([image], "attention").target
                if what == "one colour" and not thing.all():
                    image[~thing] = image[~thing].mean(axis=0)
                found = world.explainer([image], [f"agcam:scores={guide}" for guide in guides], label, strict=False)
                for guide, attribution in zip(guides, found.attributions.values(), strict=True):
                    values = attribution.to_pixels()[0].nan_to_num(nan=0)
                    if attribution.to_pixels()[0][far].isfinite().any():
                        strays[guide].append(float(values[far].max() / values.max()))
                        leaks[guide].append(float(values[far].sum() / values.sum()))
            rows += [
                [
                    what,
                    guide,
                    str(len(strays[guide])),
                    show(Estimate.of(strays[guide])),
                    show(Estimate.of(leaks[guide])),
                ]
                for guide in guides
            ]
        return table(["background", "guide", "pictures", "highest value there / highest of all", "mass there"], rows)

    return everywhere(of, count, seed=77)


def _widened(mask: np.ndarray) -> torch.Tensor:
    """The mask (H W) and what is within a twelfth of the shorter side of it."""
    reach = min(mask.shape) // 12
    rows = torch.nn.functional.max_pool2d(torch.from_numpy(mask)[None, None].float(), (2 * reach + 1, 1), 1, (reach, 0))
    return torch.nn.functional.max_pool2d(rows, (1, 2 * reach + 1), 1, (0, reach))[0, 0] > 0


def everywhere(table_of: Callable[[World], str], count: int, kind: str = "one", seed: int = 71) -> str:
    """A table for each world."""
    return "\n\n".join(f"{world.name}\n\n{table_of(world)}" for world in worlds(count, kind, seed))


QUESTIONS: dict[str, Callable[[int], str]] = {
    "instances": instances,
    "concepts": concepts,
    "neighbours": neighbours,
    "depth": depth,
    "homogeneous": homogeneous,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", nargs="*", help=f"{', '.join(QUESTIONS)}; all by default")
    parser.add_argument("--count", type=int, default=200, help="pictures of each kind")
    arguments = parser.parse_args()
    assert len(CLASSES) == 12
    for question in arguments.question or QUESTIONS:
        print(f"\n### {question}\n\n{QUESTIONS[question](arguments.count)}", flush=True)


if __name__ == "__main__":
    main()
