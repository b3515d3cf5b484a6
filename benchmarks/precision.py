"""What a faster way to run a model costs in fidelity: `python benchmarks/precision.py --help`.

For every mode its speed, in times of the float32 pass (interleaved, as in benchmarks/cost.py), and how near its results
are to float32's: of maps and of the evidence of every class the rank correlation of each picture's, of metrics that of
their values over the pictures, and the change of these values. Maps explain the class that float32 predicts. A metric
is measured on the same maps, where only its own forwards differ, and on the mode's own maps.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import Tensor

try:
    from benchmarks import cost
except ModuleNotFoundError:  # run as a script
    import cost

from vitscope import Explainer, Explanation, Running
from vitscope.datasets import Scenes
from vitscope.datasets.labelled import PICTURES
from vitscope.methods import as_methods
from vitscope.metrics import ABPC, SRG, Forwards, GridMaps, ModelScorer, Pictures, evaluate
from vitscope.models import Anatomy
from vitscope.trace import effects_on_features

MODES = {
    "float32": Running(),
    "channels-last": Running(channels_last=True),
    "compiled": Running(compiled=True),
    "bf16": Running("bf16"),
    "bf16+compiled": Running("bf16", compiled=True),
    "fp16": Running("fp16"),
}
METHODS = "daam,agcam,cdam,smooth_cdam,attention,rollout,chefer,legrad,gradcam,rise:masks=64"
TIMED = ("daam,agcam,cdam", "cdam", "smooth_cdam", "legrad")
METRICS = {"abpc": ABPC(), "srg": SRG()}
MEASURED = "daam"
"""The method whose maps the metrics measure."""


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    base = Explainer(arguments.model, arguments.weights, pretrained=not arguments.random, device=arguments.device)
    modes = {name: MODES[name] for name in arguments.modes.split(",")}
    explainers = {name: lowered(base, running) for name, running in modes.items()}
    found = {}
    if not arguments.no_speed:
        found["speed"], found["forward_s"] = speed(explainers, base.anatomy, arguments.batch, arguments.rounds)
    if not arguments.no_fidelity:
        pictures = pictures_of(arguments.root, arguments.limit)
        metrics = [name for name in METRICS if name in arguments.metrics.split(",")]
        found["fidelity"] = fidelity(base, explainers, pictures, arguments.methods, metrics, arguments.batch)
    if arguments.json:
        print(json.dumps({"setting": vars(arguments), **found}))
        return
    print(f"{arguments.model}, {arguments.device}, {arguments.threads} threads, batch {arguments.batch}")
    for name in modes:
        print(f"\n{name}")
        for job, row in found.get("speed", {}).get(name, {}).items():
            print(f"  {job:<26} {row['forwards']:>6.2f}   {row['low']:.2f} to {row['high']:.2f}  times float32's")
        for what, row in found.get("fidelity", {}).get(name, {}).items():
            print(f"  {what:<26} {' '.join(f'{key} {value:.5f}' for key, value in row.items())}")


def lowered(explainer: Explainer, running: Running) -> Explainer:
    """The same model, run otherwise."""
    return Explainer(explainer.anatomy, preprocessing=explainer.preprocessing, running=running)


def pictures_of(root: Path | None, limit: int) -> list:
    """The first photographs of a folder by name, or drawn scenes."""
    if root is None:
        return [scene.image for scene in Scenes(limit)]
    return [str(path) for path in sorted(root.rglob("*")) if path.suffix.lower() in PICTURES][:limit]


def speed(
    explainers: Mapping[str, Explainer], base: Anatomy, batch: int, rounds: int
) -> tuple[dict[str, dict[str, dict[str, float]]], float]:
    """Mode -> job -> its time over float32's own, round by round; and seconds of a float32 forward."""
    device = next(base.model.parameters()).device
    images = torch.randn(batch, 3, *base.input_size, device=device)
    synchronize = device.type == "cuda"
    table: dict[str, dict[str, dict[str, float]]] = {name: {} for name in explainers}
    forward = plain(base, images)
    found, seconds = cost.measure(
        forward, {name: plain(one.anatomy, images) for name, one in explainers.items()}, rounds, synchronize
    )
    for name, row in found.items():
        table[name]["plain forward"] = row
    for label, make in traces().items():
        jobs = {name: make(one.anatomy, images) for name, one in explainers.items() if watched(one)}
        if not jobs:
            continue
        found, _ = cost.measure(make(base, images), jobs, rounds, synchronize)
        for name, row in found.items():
            table[name][label] = row
    return table, seconds


def watched(explainer: Explainer) -> bool:
    """Whether a mode changes passes that are watched, and not plain forwards alone."""
    running = explainer.anatomy.running
    return not (running.channels_last or running.compiled)


def traces() -> dict:
    """What is timed besides plain forwards: anatomy, images -> job."""

    def explaining(labels: str):
        return lambda anatomy, images: cost.explaining(anatomy, images, as_methods(labels))

    return {labels: explaining(labels) for labels in TIMED} | {
        "evidence": lambda anatomy, images: lambda: effects_on_features(anatomy, images)
    }


def plain(anatomy: Anatomy, images: Tensor) -> cost.Job:
    """A forward of altered pictures, as metrics make it."""
    scorer = ModelScorer.of(anatomy)
    index = torch.arange(len(images), device=images.device)
    return lambda: scorer(images, index)


@dataclass(frozen=True)
class Results:
    """What is compared, of some pictures."""

    explanation: Explanation
    evidence: Tensor  # b classes rows cols
    metrics: Mapping[str, Sequence[float]]


def results_of(
    explainer: Explainer, pictures: Sequence, methods: str, measures: Sequence[str], before: Results | None = None
) -> Results:
    """By the explainer's own passes; for the targets and classes of those `before`, where these are given."""
    target = (explainer(pictures, "attention") if before is None else before.explanation).target.tolist()
    explained = explainer(pictures, methods, target)
    classes = top(explained.logits if before is None else before.explanation.logits)
    evidence = explainer.evidence(pictures)
    maps = explained[MEASURED].values
    same = before is not None and torch.equal(maps, before.explanation[MEASURED].values)
    metrics = {}
    for name in measures:
        if before is not None:
            metrics[f"{name}, same maps"] = measured(explainer, explained, name, before.explanation[MEASURED].values)
        own = metrics[f"{name}, same maps"] if same else measured(explainer, explained, name, maps)
        metrics[f"{name}, own maps"] = own
    return Results(explained, torch.stack([evidence[index] for index in classes], dim=1), metrics)


def fidelity(
    base: Explainer,
    others: Mapping[str, Explainer],
    pictures: Sequence,
    methods: str,
    metrics: Sequence[str],
    size: int,
) -> dict[str, dict[str, dict[str, float]]]:
    """Mode -> what is compared -> how near it is."""
    ranks: dict[str, dict[str, list[float]]] = {name: {} for name in others}
    values: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in others}
    for start in range(0, len(pictures), size):
        some = list(pictures[start : start + size])
        ours = results_of(base, some, methods, metrics)
        for name, explainer in others.items():
            theirs = results_of(explainer, some, methods, metrics, ours)
            pairs = {
                label: (ours.explanation[label].values, theirs.explanation[label].values) for label in ours.explanation
            }
            pairs |= {"logits": (ours.explanation.logits, theirs.explanation.logits)}
            pairs |= {"evidence": (ours.evidence, theirs.evidence)}
            for what, both in pairs.items():
                ranks[name].setdefault(what, []).extend(rank_correlations(*both))
            for what, after in theirs.metrics.items():
                before = ours.metrics[what.replace("same", "own")]
                values[name].setdefault(what, []).extend(zip(before, after, strict=True))
    return {
        name: {what: {"median": statistics.median(one), "lowest": min(one)} for what, one in ranks[name].items()}
        | {what: of_values(pairs) for what, pairs in values[name].items()}
        for name in others
    }


def top(logits: Tensor, count: int = 10) -> list[int]:
    """The classes whose evidence is compared: those with the highest output in the batch."""
    return logits.amax(dim=0).topk(min(count, logits.shape[1])).indices.tolist()


def measured(explainer: Explainer, explained, metric: str, maps: Tensor) -> list[float]:
    """A metric's value a picture, by the explainer's own forwards; the explained class stands for the true one."""
    device = next(explainer.anatomy.model.parameters()).device
    subject = explained.subject
    pictures = Pictures(
        subject.batch.tensor.to(device),
        explainer.anatomy.patch,
        explainer.preprocessing.mean,
        explainer.preprocessing.std,
        explained.target.to(device),
        explained.target.to(device),
        tuple(range(len(maps))),
    )
    forwards = Forwards(ModelScorer.of(explainer.anatomy), pictures)
    (result,) = evaluate([(METRICS[metric], GridMaps(maps, pictures.size))], forwards)
    return result.values[metric].tolist()


def rank_correlations(ours: Tensor, theirs: Tensor) -> list[float]:
    """Spearman's, a picture."""
    return [
        float(spearmanr(one.flatten().cpu().numpy(), other.flatten().cpu().numpy()).statistic)
        for one, other in zip(ours, theirs, strict=True)
    ]


def of_values(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """How near values over pictures are: their rank correlation, the largest change of one, and of the mean."""
    before, after = zip(*pairs, strict=True)
    return {
        "rank": float(spearmanr(before, after).statistic),
        "largest change": max(abs(a - b) for a, b in pairs),
        "mean": statistics.fmean(before),
        "change of the mean": statistics.fmean(after) - statistics.fmean(before),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--weights", type=Path, help="a file; the bundled model has its own")
    parser.add_argument("--random", action="store_true", help="random weights, which is enough for the speed")
    parser.add_argument("--root", type=Path, help="a folder of photographs; otherwise drawn scenes")
    parser.add_argument("--limit", type=int, default=24, help="how many pictures")
    parser.add_argument("--modes", default=",".join(MODES), help="with commas between")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--metrics", default=",".join(METRICS), help="some of these, or '' for none")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--no-fidelity", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
