"""Does a decision evolve alike in different architectures? python experiments/architectures.py

Models that learned the same scenes: the bundled one, its twin (the same shape, another seed), and others of another
depth, width, or with registers. They are trained first, a quarter as long as the bundled one:

    for model in twin registers shallow; do
        python tools/scenes/train.py $model --seed 1 --out build/scenes/weights
    done

DAAM's accumulated maps are compared at equal parts of the depth, the map between two blocks being interpolated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr

from common import share, show, table
from vitscope import Explainer
from vitscope.bench import Estimate
from vitscope.datasets import Scenes
from vitscope.models.bundled import scenes_vit

ROOT = Path(__file__).parents[1]
PARTS = (0.25, 0.5, 0.75, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=ROOT / "build" / "scenes" / "weights")
    parser.add_argument("--count", type=int, default=200, help="pictures")
    arguments = parser.parse_args()
    scenes = list(Scenes(arguments.count, "one", seed=78))
    images, truth = [scene.image for scene in scenes], torch.tensor([scene.labels[0] for scene in scenes])
    found = {}
    for name, explainer in explainers(arguments.weights).items():
        attribution = explainer(images, "daam", truth.tolist(), strict=False)["daam"]
        right = (attribution.subject.logits.argmax(dim=1) == truth).float()
        found[name] = (right, attribution)
    reference = at_parts(found["scenes"][1].flow)

    growth, likeness = [], []
    for name, (right, attribution) in found.items():
        evolving = at_parts(attribution.flow)  # parts b rows cols
        to_pixels = attribution.subject.geometries[0].to_original
        masses = [
            Estimate.of([share(to_pixels(one), scene.mask()) for one, scene in zip(part, scenes, strict=True)])
            for part in evolving
        ]
        blocks = f"{attribution.blocks.shape[1]}"
        growth.append([name, blocks, show(Estimate.of(right.tolist())), *map(show, masses)])
        if name != "scenes":
            pairs = zip(evolving, reference, strict=True)
            alike = [Estimate.of([spearman(*both) for both in zip(one, other, strict=True)]) for one, other in pairs]
            likeness.append([name, *map(show, alike)])
    depths = [f"{part:.0%} of the depth" for part in PARTS]
    print(f"\nMass of the accumulated map on the thing\n\n{table(['model', 'blocks', 'top-1', *depths], growth)}")
    print(f"\nRank correlation with the bundled model's accumulated map\n\n{table(['model', *depths], likeness)}")


def explainers(weights: Path) -> dict[str, Explainer]:
    """The bundled model and those that were trained, by name."""
    sys.path.append(str(ROOT / "tools" / "scenes"))
    from train import PLANS

    found = {"scenes": Explainer("scenes")}
    for file in sorted(weights.glob("*.safetensors")):
        model = scenes_vit(**PLANS[file.stem].architecture)
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()})
        found[file.stem] = Explainer(model.eval())
    if len(found) == 1:
        sys.exit(f"{weights}: no weights; train the other models first:\n{__doc__}")
    return found


def at_parts(flow: torch.Tensor) -> torch.Tensor:
    """Accumulated maps (b blocks rows cols) at PARTS of the depth, (parts b rows cols)."""
    whole = torch.cat([torch.zeros_like(flow[:, :1]), flow], dim=1)
    places = torch.tensor(PARTS) * flow.shape[1]
    below = places.floor().long().clamp(max=flow.shape[1] - 1)
    rest = (places - below).view(-1, 1, 1, 1)
    return whole[:, below].transpose(0, 1) * (1 - rest) + whole[:, below + 1].transpose(0, 1) * rest


def spearman(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(spearmanr(one.flatten().numpy(), other.flatten().numpy()).statistic)


if __name__ == "__main__":
    main()
