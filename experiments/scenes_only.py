"""Open questions that need the scenes' exact truth: python experiments/scenes_only.py [QUESTION].

instances: of several things of one class, how many does a map find? concepts: does a concept from five pictures point
at its thing among two? neighbours: how many neighbours should DAAM's self-supervised branch ask? depth: what does a
block's share of the evidence predict? homogeneous: where are AG-CAM's peaks when the background has one colour?
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch

from common import show, table
from vitscope import Explainer
from vitscope.bench import Estimate
from vitscope.datasets import CLASSES, Scenes
from vitscope.flow import attention_flow
from vitscope.metrics import energy_in_mask
from vitscope.targets import Concept, MemoryBank, Neighbours

FOUND = 0.5
"""A thing is found where its mean value is at least so many times that of the thing with the highest."""


def share(values: torch.Tensor, mask: np.ndarray) -> float:
    return float(energy_in_mask(values[None], torch.from_numpy(mask)[None]))


def instances(count: int) -> str:
    """Of several things of one class, the share whose mean positive value is half of the strongest's or more."""
    explainer, methods = Explainer("scenes"), ["daam", "agcam", "cdam", "smooth_cdam", "integrated_cdam", "attention"]
    found: dict[str, list[float]] = {label: [] for label in methods}
    whole: dict[str, list[float]] = {label: [] for label in methods}
    for scene in Scenes(count, "several", seed=72):
        explanation = explainer([scene.image], methods, strict=False)
        for label, attribution in explanation.attributions.items():
            values = attribution.to_pixels()[0].clamp(min=0)
            means = [float(values[torch.from_numpy(one.mask)].mean()) for one in scene.instances]
            if max(means) > 0:
                hits = [mean >= FOUND * max(means) for mean in means]
                found[label].append(float(np.mean(hits)))
                whole[label].append(float(all(hits)))
    rows = [[label, show(Estimate.of(found[label])), show(Estimate.of(whole[label]))] for label in methods]
    return table(["method", "share of the things found", "scenes with all found"], rows)


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
    """DAAM's K and weighting, on the self-supervised model."""
    explainer, bank = Explainer("scenes-ssl"), MemoryBank.load("scenes-ssl")
    scenes = Scenes(count, "one", seed=75)
    features = torch.cat([explainer.features([scene.image]) for scene in scenes])
    truth = torch.tensor([scene.labels[0] for scene in scenes])
    rows = []
    for weighting in ("official", "equation"):
        for k in (5, 10, 20, 50):
            target = Neighbours(bank, k=k, weighting=weighting)
            right = (target.voted(features) == truth).float().tolist()
            shares = [
                share(explainer([scene.image], "daam", target)["daam"].to_pixels()[0], scene.mask()) for scene in scenes
            ]
            rows.append([weighting, str(k), show(Estimate.of(right)), show(Estimate.of(shares))])
    return table(["weighting", "K", "voted class is right", "positive mass on the thing"], rows)


def depth(count: int) -> str:
    """Share of evidence a block against the drop of the logit without its attention."""
    explainer = Explainer("scenes")
    images = [scene.image for scene in Scenes(count, "one", seed=76)]
    rows = []
    for method in ("daam", "agcam"):
        for left_out in ("all", "read"):
            flow = attention_flow(explainer, images, method, rows=left_out)
            known = flow.correlation[flow.correlation.isfinite()]
            what = "every token's" if left_out == "all" else "the class token's"
            rows.append([method, what, show(Estimate.of(flow.half.tolist())), show(Estimate.of(known.tolist()))])
    return table(["method", "attention left out", "half of the evidence after blocks", "rank correlation"], rows)


def homogeneous(count: int) -> str:
    """AG-CAM's peaks in the background, as drawn and painted in its mean colour, by what guides the gradient."""
    explainer, guides = Explainer("scenes"), ("sigmoid", "softmax", "instance_norm")
    rows = []
    for what in ("as drawn", "one colour"):
        strays: dict[str, list[float]] = {guide: [] for guide in guides}
        leaks: dict[str, list[float]] = {guide: [] for guide in guides}
        for scene in Scenes(count, "one", seed=77):
            image, thing = scene.image.copy(), scene.mask()
            if what == "one colour":
                image[~thing] = image[~thing].mean(axis=0)
            near = torch.nn.functional.max_pool2d(torch.from_numpy(thing)[None, None].float(), 17, 1, 8)[0, 0] > 0
            found = explainer([image], [f"agcam:scores={guide}" for guide in guides], scene.labels[0], strict=False)
            for guide, attribution in zip(guides, found.attributions.values(), strict=True):
                values = attribution.to_pixels()[0]
                strays[guide].append(float(values[~near].max() / values.max()))
                leaks[guide].append(float(values[~near].sum() / values.sum()))
        rows += [[what, guide, show(Estimate.of(strays[guide])), show(Estimate.of(leaks[guide]))] for guide in guides]
    return table(["background", "guide", "highest value there / highest of all", "mass there"], rows)


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
    parser.add_argument("--count", type=int, default=200, help="scenes")
    arguments = parser.parse_args()
    assert len(CLASSES) == 12
    for question in arguments.question or QUESTIONS:
        print(f"\n### {question} ({arguments.count} scenes)\n\n{QUESTIONS[question](arguments.count)}", flush=True)


if __name__ == "__main__":
    main()
