"""Train a bundled model, such as `python tools/scenes/train.py scenes`; or others on scenes.

Seeded; a run that was interrupted goes on where its last checkpoint was. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm.layers
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from objectives import Classify, MomentumContrast, Supervised
from pictures import batch, drawings
from vitscope.datasets import CLASSES
from vitscope.models.bundled import FOLDER, scenes_swin, scenes_vit

timm.layers.set_fused_attn(False)  # the CPU's fused kernel is six times slower backwards in bfloat16


@dataclass(frozen=True)
class Stage:
    """Some of the training at one picture size. Rates are of AdamW; Muon's are twice as high."""

    size: int
    images: int
    batch: int
    rate: float


@dataclass(frozen=True)
class Plan:
    """How one model comes to be."""

    objective: type[nn.Module]
    recipe: str
    drawings: int
    stages: tuple[Stage, ...]
    outputs: int = len(CLASSES)
    start: str | None = None  # the bundled model to start from
    architecture: dict[str, int] = field(default_factory=dict)  # where it differs from the bundled one
    windowed: bool = False

    def network(self) -> nn.Module:
        """With random weights, for images of every size of the stages."""
        if self.windowed:
            return scenes_swin(self.outputs, strict_img_size=False, dynamic_img_size=True, **self.architecture)
        return scenes_vit(self.outputs, dynamic_img_size=True, **self.architecture)


PLANS = {
    "scenes": Plan(
        Supervised,
        "varied",
        80_000,
        (Stage(48, 480_000, 128, 1e-3), Stage(96, 160_000, 128, 7e-4)),
    ),
    "scenes-shortcut": Plan(Classify, "shortcut", 10_000, (Stage(96, 20_000, 100, 5e-4),), start="scenes"),
    "scenes-ssl": Plan(
        MomentumContrast,
        "pairs",
        80_000,
        (Stage(48, 240_000, 256, 1e-3), Stage(96, 32_000, 128, 5e-4)),
        outputs=0,
    ),
    "scenes-windows": Plan(
        Supervised,
        "varied",
        40_000,
        (Stage(48, 300_000, 128, 1e-3), Stage(96, 64_000, 128, 7e-4)),
        windowed=True,
    ),
}
# For experiments/architectures.py, with a quarter of the pictures. The twin differs by its seed alone.
SHORT = replace(PLANS["scenes"], stages=(Stage(48, 120_000, 128, 1e-3), Stage(96, 40_000, 128, 7e-4)))
PLANS |= {
    "twin": SHORT,
    "registers": replace(SHORT, architecture={"reg_tokens": 4}),
    "shallow": replace(SHORT, architecture={"depth": 6, "embed_dim": 192, "num_heads": 6}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=PLANS)
    parser.add_argument("--work", type=Path, default=Path("build/scenes"), help="drawings, checkpoints and logs")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the finished weights go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-compile", action="store_true", help="where there is no C++ compiler")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the plan's images, for a trial")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    plan = PLANS[args.model]
    source = drawings(args.work, plan.recipe, max(1000, int(plan.drawings * args.scale)), args.threads)
    torch.manual_seed(args.seed)
    run = Run(plan, args.seed, args.scale, compiled=not args.no_compile)
    folder = args.work / args.model
    folder.mkdir(parents=True, exist_ok=True)
    run.resume(folder)
    run.train(source, folder)
    args.out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.half().contiguous() for name, tensor in run.averaged().items()}
    save_file(weights, args.out / f"{args.model}.safetensors")
    print(f"{args.model}: {run.seen} pictures, {run.seconds:.0f} s -> {args.out / args.model}.safetensors")


class Run:
    """A network under training, with everything that a checkpoint must hold."""

    def __init__(self, plan: Plan, seed: int, scale: float, compiled: bool) -> None:
        self.plan, self.seed = plan, seed
        self.stages = [Stage(s.size, int(s.images * scale), s.batch, s.rate) for s in plan.stages]
        net = plan.network()
        if plan.start:
            net.load_state_dict({k: v.float() for k, v in load_file(FOLDER / f"{plan.start}.safetensors").items()})
        self.objective = plan.objective(net)
        self.step_function = torch.compile(self.objective) if compiled else self.objective
        self.average = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
        learning = [(n, p) for n, p in self.objective.named_parameters() if p.requires_grad]
        matrices = [p for n, p in learning if _of_block(n, p)]
        rest = [p for n, p in learning if not _of_block(n, p)]
        self.optimizers = [
            torch.optim.Muon(matrices, lr=2.0, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=1.0, weight_decay=0.01, betas=(0.9, 0.98)),
        ]
        self.relative = [2.0, 1.0]
        self.learning = [p for _, p in learning]
        self.stage = self.step = self.seen = 0
        self.seconds = 0.0

    def train(self, source: Any, folder: Path, save_every: int = 500) -> None:
        """All the stages that are left."""
        while self.stage < len(self.stages):
            stage = self.stages[self.stage]
            steps = stage.images // stage.batch
            began, loss_mean, hit_mean, shown = time.time(), None, None, 0
            while self.step < steps:
                loss, hit = self._one(source, stage, steps)
                loss_mean = loss if loss_mean is None else 0.98 * loss_mean + 0.02 * loss
                hit_mean = hit if hit_mean is None else 0.98 * hit_mean + 0.02 * hit
                self.step, self.seen, shown = self.step + 1, self.seen + stage.batch, shown + 1
                if self.step % 50 == 0 or self.step == steps:
                    now = time.time()
                    self.seconds, rate = self.seconds + now - began, shown * stage.batch / (now - began)
                    began, shown = now, 0
                    line = {
                        "stage": self.stage,
                        "step": self.step,
                        "of": steps,
                        "images": self.seen,
                        "seconds": round(self.seconds),
                        "images_per_second": round(rate),
                        "loss": round(loss_mean, 4),
                        "hit": round(hit_mean, 4),
                    }
                    print(json.dumps(line), flush=True)
                    with (folder / "log.jsonl").open("a") as log:
                        log.write(json.dumps(line) + "\n")
                if self.step % save_every == 0:
                    self.save(folder)
            self.stage, self.step = self.stage + 1, 0
            self.save(folder)

    def _one(self, source: Any, stage: Stage, steps: int) -> tuple[float, float]:
        warm = min(1.0, (self.step + 1) / max(1, min(200, steps // 5)))
        rate = stage.rate * warm * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * self.step / steps)))
        for optimizer, relative in zip(self.optimizers, self.relative, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * relative
            optimizer.zero_grad()
        # A generator of its own for every step: an interrupted run sees what an uninterrupted one would have seen.
        images, labels = batch(
            source, np.random.default_rng([self.seed, self.stage, self.step]), stage.batch, stage.size
        )
        with torch.autocast("cpu", torch.bfloat16):
            loss, hit = self.step_function(images, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(self.learning, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        total = self.stage * steps + self.step
        if hasattr(self.objective, "after_step"):
            self.objective.after_step(min(0.99, total / (total + 10)))
        decay = min(0.998, total / (total + 10))
        for name, tensor in self.objective.net.state_dict().items():
            self.average[name].lerp_(tensor, 1 - decay)
        return float(loss.detach()), float(hit.detach())

    def averaged(self) -> dict[str, torch.Tensor]:
        """The mean of the last weights: what is shipped."""
        return self.average

    def save(self, folder: Path) -> None:
        state = {
            "objective": self.objective.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "place": (self.stage, self.step, self.seen, self.seconds),
        }
        torch.save(state, folder / "checkpoint.part")
        (folder / "checkpoint.part").rename(folder / "checkpoint.pt")

    def resume(self, folder: Path) -> None:
        if not (folder / "checkpoint.pt").exists():
            return
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
        self.objective.load_state_dict(state["objective"])
        self.average = state["average"]
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.stage, self.step, self.seen, self.seconds = state["place"]
        print(f"going on at stage {self.stage}, step {self.step}")


def _of_block(name: str, parameter: nn.Parameter) -> bool:
    """Whether it is a matrix of a block's linear layer."""
    return parameter.ndim == 2 and ".blocks." in f".{name}" and name.endswith(".weight")


if __name__ == "__main__":
    main()
