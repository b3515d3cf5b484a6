"""How far does a map move by noise that nobody sees? python experiments/rounding.py

Gaussian noise of 1e-6 on the normalised picture, about ten times float32's rounding: the relative L2 change of each
method's map of the predicted class, median and highest over the pictures. Prints a table for docs/findings.md.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from common import table, worlds
from vitscope.images import prepare

METHODS = [
    "daam", "agcam", "cdam", "chefer", "chefer_lrp", "partial_lrp", "cplrp", "attnlrp", "reslrp", "libra_fullgrad",
    "attcat", "gradcam", "gradcam_pp", "xgradcam",
]  # fmt: skip
NOISE = 1e-6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="pictures of each kind")
    arguments = parser.parse_args()
    for world in worlds(arguments.count):
        moved: dict[str, list[float]] = {label: [] for label in METHODS}
        for number, case in enumerate(world.cases):
            generator = torch.Generator().manual_seed(number)
            picture = prepare([case.picture], world.explainer.preprocessing).tensor
            noisy = picture + NOISE * torch.randn(picture.shape, generator=generator)
            before = world.explainer(picture, METHODS, strict=False)
            after = world.explainer(noisy, METHODS, int(before.target[0]), strict=False)
            for label in set(before.attributions) & set(after.attributions):
                one, other = before[label].values, after[label].values
                moved[label].append(float((one - other).norm() / one.norm()))
        rows = [
            [label, f"{statistics.median(found):.1e}", f"{max(found):.1e}"] for label, found in moved.items() if found
        ]
        print(f"\n{world.name}\n\n{table(['method', 'median', 'highest'], rows)}", flush=True)


if __name__ == "__main__":
    main()
