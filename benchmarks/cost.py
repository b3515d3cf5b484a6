"""What each method costs, in forwards of the same model: `make cost`, or `python benchmarks/cost.py --help`.

Each round runs the plain forward (inference mode) and every set of methods once, in an order shuffled by the round's
number, so that a slow moment of the machine meets all alike; a method's cost is the median over rounds of its time
over the same round's forward. Methods that run the model on altered pictures take a few rounds of their own; the
slowest are measured with a budget, which their label tells, and cost in proportion.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import reduce

import captum.attr  # noqa: F401  imported by the first method that needs it, which shall not count
import timm
import torch

from vitscope.methods import as_methods
from vitscope.models import anatomy_of
from vitscope.targets import Class, Predicted, Target
from vitscope.trace import Needs, effects_on_features, record

SETS = (
    "attention",
    "cdam",
    "agcam",
    "daam",
    "daam:rows=all",
    "daam,agcam,cdam",
    "smooth_cdam",
    "integrated_cdam",
    "rollout",
    "gradient_rollout",
    "chefer",
    "legrad",
    "grad_sam",
    "gmar",
    "gmar:norm=l2",
    "grad_eclip",
    "btt",
    "bth",
    "tokentm",
    "gradcam",
    "eigencam",
    "eigengradcam",
)
ALTERING = (
    "input_x_gradient",
    "integrated_gradients",
    "smoothgrad",
    "scorecam",
    "token_ablation",
    "rise:max_forwards=200",
    "tis:max_forwards=200",
    "vit_cx",
)
EVERY = ("evidence of every class", "agcam of every class", "daam of 8 classes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--altering-rounds", type=int, default=2, help="0 leaves methods that alter pictures out")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, help="input size in pixels, where it differs from the model's own")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    options = {"img_size": arguments.size} if arguments.size else {}
    model = timm.create_model(arguments.model, **options).eval().to(arguments.device)
    anatomy = anatomy_of(model)
    images = torch.randn(arguments.batch, 3, *anatomy.input_size, device=arguments.device)

    def plain() -> None:
        with torch.inference_mode():
            model(images)

    def run(names: str, aims: Sequence[Target] = (Predicted(),)):
        methods = as_methods(names).values()
        needs = reduce(Needs.__or__, (method.needs for method in methods))

        def explain() -> None:
            trace = record(anatomy, images, needs, aims)
            for method in methods:
                method(trace)

        return explain

    def evidence() -> None:
        found = effects_on_features(anatomy, images)
        found.effects.flatten(1, 2) @ anatomy.classifier.weight.detach().T

    classes = [Class(index) for index in range(anatomy.outputs)]
    jobs = {"forward": plain} | {names: run(names) for names in SETS}
    jobs |= dict(zip(EVERY, (evidence, run("agcam", classes), run("daam", classes[:8])), strict=True))
    table, forward = measured(jobs, arguments.rounds, arguments.device)
    if arguments.altering_rounds:
        slow = {"forward": plain} | {names: run(names) for names in ALTERING}
        table |= measured(slow, arguments.altering_rounds, arguments.device)[0]
    if arguments.json:
        print(json.dumps({"setting": vars(arguments), "forward_s": forward, "cost": table}))
        return
    print(
        f"{arguments.model}, batch {arguments.batch}, {arguments.threads} threads, {arguments.device}: "
        f"one forward {1e3 * forward:.1f} ms; {arguments.rounds} rounds"
    )
    print(f"{'methods':<28} {'forwards':>8}   quartiles")
    for name, row in table.items():
        print(f"{name:<28} {row['forwards']:>8.2f}   {row['low']:.2f} to {row['high']:.2f}")


def measured(jobs: dict[str, Callable[[], None]], rounds: int, device: str) -> tuple[dict[str, dict], float]:
    """The cost of each job in forwards, and the forward's median time in seconds; one of the jobs is the forward."""
    times = {name: [] for name in jobs}
    jobs["forward"]()
    for number in range(-1, rounds):  # one round to warm up, where there are many
        if number < 0 and rounds < 10:
            continue
        order = list(jobs)
        random.Random(number).shuffle(order)
        for name in order:
            start = time.perf_counter()
            jobs[name]()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if number >= 0:
                times[name].append(time.perf_counter() - start)
    table = {}
    for name in jobs.keys() - {"forward"}:
        ratios = sorted(t / f for t, f in zip(times[name], times["forward"], strict=True))
        quartile = len(ratios) // 4
        table[name] = {"forwards": statistics.median(ratios), "low": ratios[quartile], "high": ratios[-1 - quartile]}
    return {name: table[name] for name in jobs if name in table}, statistics.median(times["forward"])


if __name__ == "__main__":
    main()
