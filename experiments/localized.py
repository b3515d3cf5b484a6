"""The papers' open questions that localization can answer: python experiments/localized.py [QUESTION].

Each prints a table for docs/findings.md: mean IoU at the threshold chosen on the other half of the pictures, and the
share of positive mass on the object, with 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse

from common import measure, show, table, worlds

QUESTIONS = {
    "daam-path": ["daam", "daam:path=skip", "daam:path=feedforward"],
    "daam-rows": ["daam", "daam:rows=all"],
    "agcam-scores": ["agcam", *(f"agcam:scores={s}" for s in ("softmax", "minmax", "instance_norm", "layer_norm"))],
    "agcam-fusion": ["agcam", "agcam:heads=max", "agcam:heads=gradient", "agcam:layers=max", "agcam:layers=gradient"],
    "agcam-path": ["agcam", "agcam:path=full"],
    "cdam-variants": ["cdam", "smooth_cdam", "smooth_cdam:at=norm", "integrated_cdam", "integrated_cdam:at=norm"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", nargs="*", choices=[*QUESTIONS, []], help="all by default")
    parser.add_argument("--count", type=int, default=200, help="pictures of each kind")
    arguments = parser.parse_args()
    for question in arguments.question or QUESTIONS:
        print(f"\n### {question}")
        for world in worlds(arguments.count):
            found = measure(world, QUESTIONS[question])
            rows = [[label, show(one.iou), show(one.energy)] for label, one in found.items()]
            print(f"\n{world.name}\n\n{table(['method', 'IoU', 'mass on the object'], rows)}", flush=True)


if __name__ == "__main__":
    main()
