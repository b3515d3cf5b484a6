"""Build the self-supervised model's memory bank: `python tools/scenes/bank.py`, after `train.py scenes-ssl`.

One picture of each of the first individuals that the model was trained on, with its class: the only place where the
classes come in.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from pictures import drawings, normalise
from train import PLANS
from vitscope.datasets import CLASSES
from vitscope.models import load_model
from vitscope.models.bundled import FOLDER
from vitscope.targets import ClassNames, MemoryBank


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/scenes"), help="where train.py keeps its drawings")
    parser.add_argument("--count", type=int, default=6000)
    args = parser.parse_args()
    plan = PLANS["scenes-ssl"]
    source = drawings(args.work, plan.recipe, plan.drawings)
    model = load_model("scenes-ssl")
    features, labels = [], []
    with torch.inference_mode():
        for start in range(0, args.count, 100):
            rows = np.arange(start, min(start + 100, args.count)) * source.views
            features.append(model(normalise(source.images[rows])))
            labels.append(torch.from_numpy(source.label_maps[rows].max(axis=(1, 2)).astype(np.int64) - 1))
    bank = MemoryBank.of(torch.cat(features), torch.cat(labels), ClassNames(CLASSES), torch.float16)
    bank.save(FOLDER / "scenes-ssl-bank.safetensors")
    print(f"{len(bank)} features of width {bank.features.shape[1]} -> {FOLDER / 'scenes-ssl-bank.safetensors'}")


if __name__ == "__main__":
    main()
