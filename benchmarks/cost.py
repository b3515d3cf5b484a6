"""What each method costs, in forwards of the same model: `make cost`, or `python benchmarks/cost.py --help`.

Each round runs the plain forward (inference mode) and every job once, in an order shuffled by the round's number, so
that a slow moment of the machine meets all alike; a method's cost is the median over rounds of its time over the same
round's forward. A job that takes more than a few forwards is run in fewer rounds. On CUDA the clock is read once all
work is done, before a job and behind it, and the allocator's peak during a job's first run stands beside its cost.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import captum.attr  # noqa: F401  imported by the first method that needs it, which shall not count
import timm
import torch
from torch import Tensor, nn

from vitscope.errors import VitscopeError
from vitscope.methods import FAMILIES, Method, as_methods, choose, list_methods
from vitscope.models import Anatomy, anatomy_of
from vitscope.targets import Class, Predicted, Target
from vitscope.trace import Needs, effects_on_features, record
from vitscope.trace.chunks import out_of_memory

SLOW = ("input-gradient", "perturbation")
"""Families that are measured where they are asked for."""

DEAR, FEW = 20, 3
"""A job of more forwards than this is run in so few rounds."""

SETS = ("daam:rows=all", "daam,agcam,cdam")
"""What is measured besides each method by itself."""

Job = Callable[[], object]


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    options = {"img_size": arguments.size} if arguments.size else {}
    model = timm.create_model(arguments.model, **options).eval().to(arguments.device)
    anatomy = anatomy_of(model)
    images = torch.randn(arguments.batch, 3, *anatomy.input_size, device=arguments.device)
    chosen = choose(arguments.methods).methods
    jobs = {label: explaining(anatomy, images, {label: method}) for label, method in chosen.items()}
    if not arguments.alone:
        jobs |= special(anatomy, images)
    table, forward = measure(plain(model, images), jobs, arguments.rounds, arguments.device.startswith("cuda"))
    if arguments.json:
        print(json.dumps({"setting": vars(arguments), "forward_s": forward, "cost": table}))
        return
    print(
        f"{arguments.model}, batch {arguments.batch}, {arguments.threads} threads, {arguments.device}: "
        f"one forward {1e3 * forward:.1f} ms; {arguments.rounds} rounds"
    )
    width = max(map(len, table))
    print(f"{'methods':<{width}} {'forwards':>8}   quartiles, rounds")
    for name, row in table.items():
        print(f"{name:<{width}} {row.get('failed') or _line(row)}")


def _line(row: Mapping[str, float | str]) -> str:
    peak = f", {row['peak_mib']:.0f} MiB at most" if "peak_mib" in row else ""
    return f"{row['forwards']:>8.2f}   {row['low']:.2f} to {row['high']:.2f}, {row['rounds']}{peak}"


def default_methods() -> str:
    """Every registered method but those of the slow families."""
    return ",".join(facts.name for facts in list_methods() if facts.family not in SLOW)


def explaining(
    anatomy: Anatomy, images: Tensor, methods: Mapping[str, Method], aims: Sequence[Target] = (Predicted(),)
) -> Job:
    """These methods in one pass."""
    needs = reduce(Needs.__or__, (method.needs for method in methods.values()))

    def explain() -> None:
        trace = record(anatomy, images, needs, aims)
        for method in methods.values():
            method(trace)

    return explain


def special(anatomy: Anatomy, images: Tensor) -> dict[str, Job]:
    """Several methods or targets in one pass."""
    classes = [Class(index) for index in range(anatomy.outputs)]

    def evidence() -> None:
        found = effects_on_features(anatomy, images)
        found.effects.flatten(1, 2) @ anatomy.classifier.weight.detach().T

    return {words: explaining(anatomy, images, as_methods(words)) for words in SETS} | {
        "evidence of every class": evidence,
        "agcam of every class": explaining(anatomy, images, as_methods("agcam"), classes),
        "daam of 8 classes": explaining(anatomy, images, as_methods("daam"), classes[:8]),
    }


def plain(model: nn.Module, images: Tensor) -> Job:
    """The model's own forward."""

    def forward() -> None:
        with torch.inference_mode():
            model(images)

    return forward


def measure(
    forward: Job,
    jobs: Mapping[str, Job],
    rounds: int,
    synchronize: bool = False,
    clock: Callable[[Job], float] | None = None,
) -> tuple[dict[str, dict[str, float | str]], float]:
    """The cost of every job in forwards, with quartiles; and a forward's seconds.

    Each job is run once before, which warms it up and tells whether it is dear. One that fails has its reason under
    "failed", and the others are measured. `clock` tells a job's seconds where it runs in another process.
    """

    def seconds(job: Job) -> float:
        if clock is not None:
            return clock(job)
        if synchronize:
            torch.cuda.synchronize()
        start = time.perf_counter()
        job()
        if synchronize:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    seconds(forward)
    one = min(seconds(forward) for _ in range(3))
    times: dict[str, list[tuple[float, float]]] = {}
    turns, failed, peaks = {}, {}, {}
    for name, job in jobs.items():
        if synchronize:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            first = seconds(job)
        except Exception as error:
            if not isinstance(error, VitscopeError) and not out_of_memory(error):
                raise
            failed[name] = " ".join(str(error).split())[:300]
            continue
        if synchronize:
            peaks[name] = torch.cuda.max_memory_allocated() / 2**20
        times[name] = []
        turns[name] = min(rounds, FEW) if first > DEAR * one else rounds
    base = []
    for number in range(rounds):
        order = [name for name in times if number < turns[name]]
        at = random.Random(number)
        at.shuffle(order)
        place = at.randrange(len(order) + 1)
        taken = {name: seconds(jobs[name]) for name in order[:place]}
        base.append(seconds(forward))
        taken |= {name: seconds(jobs[name]) for name in order[place:]}
        for name, took in taken.items():
            times[name].append((took, base[-1]))
    table = {name: {"failed": failed[name]} if name in failed else _row(times[name]) for name in jobs}
    for name, peak in peaks.items():
        table[name]["peak_mib"] = peak
    return table, statistics.median(base)


def _row(times: Sequence[tuple[float, float]]) -> dict[str, float | str]:
    ratios = sorted(took / forward for took, forward in times)
    quartile = len(ratios) // 4
    low, high = ratios[quartile], ratios[-1 - quartile]
    seconds = statistics.median(took for took, _ in times)
    return {"forwards": statistics.median(ratios), "low": low, "high": high, "rounds": len(ratios), "seconds": seconds}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument(
        "--methods",
        default=default_methods(),
        help=f"as for vitscope, each measured by itself: names, all, or families ({', '.join(FAMILIES)}); "
        f"otherwise all but {' and '.join(SLOW)}",
    )
    parser.add_argument("--alone", action="store_true", help="the methods by themselves, without the sets")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, help="input size in pixels, where it differs from the model's own")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
