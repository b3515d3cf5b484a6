"""One process of `benchmarks/peers.py`: it holds a model and pictures, and runs one library's calls when told.

A line of JSON on its standard input asks, one on its standard output answers; what the libraries print goes to the
standard error. It runs in the library's own environment, so it imports torch, timm and that library only.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from benchmarks.peer_calls import CALLS, TWINS, Setting
from torch import Tensor, nn

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 7}
"""A model on which a call is made once, so that what it imports is not counted as its memory."""

AT_PIXELS = ("input_x_gradient", "integrated_gradients", "smoothgrad")
"""Methods whose peers attribute to every pixel by itself."""


def build(twin: str, name: str, size: int | None) -> nn.Module:
    """A model of 1000 classes with random weights: timm's `name`, or one of its shape from torchvision or transformers.

    All parameters are moved at random, so that no scale or head is zero and no map flat.
    """
    torch.manual_seed(0)
    options: dict[str, Any] = {"img_size": size} if size else {}
    model = timm.create_model(name, pretrained=False, num_classes=1000, **options)
    if twin:
        model = {"torchvision": _of_torchvision, "huggingface": _of_hugging_face}[twin](model)
    return moved(model)


def small(twin: str) -> nn.Module:
    """The same of the smallest size."""
    torch.manual_seed(0)
    model: nn.Module = timm.models.vision_transformer.VisionTransformer(**SMALL)
    if twin:
        model = {"torchvision": _of_torchvision, "huggingface": _of_hugging_face}[twin](model)
    return moved(model)


def moved(model: nn.Module, by: float = 0.05) -> nn.Module:
    """The model with all its parameters moved."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by * torch.randn(parameter.shape))
    return model.eval()


def _shape(model: nn.Module) -> dict[str, int]:
    block = model.blocks[0]
    return {
        "size": model.patch_embed.img_size[0],
        "patch": model.patch_embed.patch_size[0],
        "depth": len(model.blocks),
        "width": model.embed_dim,
        "heads": block.attn.num_heads,
        "hidden": block.mlp.fc1.out_features,
        "classes": model.num_classes,
    }


def _of_torchvision(model: nn.Module) -> nn.Module:
    from torchvision.models import VisionTransformer

    of = _shape(model)
    return VisionTransformer(
        of["size"], of["patch"], of["depth"], of["heads"], of["width"], of["hidden"], num_classes=of["classes"]
    )


def _of_hugging_face(model: nn.Module) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    of = _shape(model)
    config = ViTConfig(
        hidden_size=of["width"],
        num_hidden_layers=of["depth"],
        num_attention_heads=of["heads"],
        intermediate_size=of["hidden"],
        image_size=of["size"],
        patch_size=of["patch"],
        num_labels=of["classes"],
    )
    config._attn_implementation = "eager"  # which alone returns attention
    return ViTForImageClassification(config)


class Worker:
    """Answers orders.

    Args:
        who: whose calls, a key of `CALLS`.
        order: "name", "size", "images" (a file), "weights" (a file for each twin), "threads", "samples", "frozen".
    """

    def __init__(self, who: str, order: Mapping[str, Any]) -> None:
        self.who, self.order = who, order
        torch.set_num_threads(order["threads"])
        self.images = torch.from_numpy(np.load(order["images"]))
        self.models: dict[str, nn.Module] = {}

    def model(self, twin: str) -> nn.Module:
        if twin not in self.models:
            model = build(twin, self.order["name"], self.order["size"])
            model.load_state_dict(torch.load(self.order["weights"][twin], mmap=True))
            self.models[twin] = model.requires_grad_(not self.order["frozen"])
        return self.models[twin]

    def forward(self, method: str, times: int = 3, **_: Any) -> dict[str, Any]:
        """Seconds of the method's model by itself, the median of a few, since all else is held against it."""
        model = self.model(TWINS.get(method, ""))
        taken = []
        with torch.inference_mode():
            for _ in range(times):
                start = time.perf_counter()
                model(self.images)
                taken.append(time.perf_counter() - start)
        return {"seconds": statistics.median(taken)}

    def predict(self, method: str, **_: Any) -> dict[str, Any]:
        """The predicted classes of the method's model."""
        model = self.model(TWINS.get(method, ""))
        with torch.inference_mode():
            return {"classes": logits_of(model(self.images)).argmax(dim=1).tolist()}

    def run(self, method: str, targets: list[list[int]], save: str = "", **_: Any) -> dict[str, Any]:
        """Seconds of one call; its first target's maps on the patch grid go to the file `save`."""
        with CALLS[self.who][method](self._setting(method, targets)) as call:
            gc.collect()
            start = time.perf_counter()
            maps = call()
            seconds = time.perf_counter() - start
        if save and maps[0] is not None:
            grid = self._grid(self.model(TWINS.get(method, "")))
            np.save(save, on_patches(maps[0], grid, method in AT_PIXELS))
        return {"seconds": seconds}

    def memory(self, method: str, targets: list[list[int]], **_: Any) -> dict[str, Any]:
        """Bytes at the highest, of a plain forward and of one call, in a process of their own.

        This process has imported what it takes, and run nothing; the one that it forks does the work and ends.
        """
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            try:
                told = self._highest(method, targets)
            except Exception as error:
                told = {"failed": described(error)}
            os.write(theirs, json.dumps(told).encode())
            os._exit(0)
        os.close(theirs)
        with os.fdopen(ours) as answer:
            told = json.loads(answer.read() or '{"failed": "the process was ended, for want of memory it may be"}')
        os.waitpid(child, 0)
        return told

    def _highest(self, method: str, targets: list[list[int]]) -> dict[str, Any]:
        twin = TWINS.get(method, "")
        tiny = small(twin).requires_grad_(not self.order["frozen"])
        picture = torch.randn(1, 3, SMALL["img_size"], SMALL["img_size"])
        with CALLS[self.who][method](Setting(tiny, picture, [[0]] * len(targets), (4, 4), samples=2)) as call:
            call()
        self.forward(method, times=1)
        highest = {"forward": peak(lambda: self.forward(method, times=1))}
        with CALLS[self.who][method](self._setting(method, targets)) as call:
            highest["call"] = peak(call)
        return highest

    def _setting(self, method: str, targets: list[list[int]]) -> Setting:
        model = self.model(TWINS.get(method, ""))
        return Setting(model, self.images, targets, self._grid(model), self.order["samples"], self.order["frozen"])

    def _grid(self, model: nn.Module) -> tuple[int, int]:
        if hasattr(model, "patch_embed"):
            rows, cols = model.patch_embed.patch_size
        else:
            rows = cols = getattr(model, "patch_size", None) or model.config.patch_size
        return self.images.shape[2] // rows, self.images.shape[3] // cols


def logits_of(output: Any) -> Tensor:
    """The logits of a model's output."""
    return output if isinstance(output, Tensor) else output.logits


def on_patches(maps: Any, grid: tuple[int, int], at_pixels: bool) -> np.ndarray:
    """Maps as a library returns them, (b rows cols): each patch's mean, or its middle.

    The mean is for attributions to pixels. A map that was enlarged linearly has its patch's own value in the middle.
    """
    found = torch.as_tensor(np.stack(maps) if isinstance(maps, list) else maps).detach().float()
    if found.ndim == 4:
        found = found.sum(dim=1)
    side = found.shape[1] // grid[0]
    if side > 1 and not at_pixels:
        cells = found.unflatten(2, (grid[1], side)).unflatten(1, (grid[0], side))  # b row y col x
        middle = slice((side - 1) // 2, side // 2 + 1)
        return cells[:, :, middle, :, middle].mean(dim=(2, 4)).numpy()
    return torch.nn.functional.adaptive_avg_pool2d(found[:, None], grid)[:, 0].numpy()


def described(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def peak(job: Callable[[], object]) -> int:
    """The process's resident bytes at their highest during the job."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts anew
    except (OSError, AttributeError):
        job()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    job()
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(sys.argv[1], json.loads(sys.argv[2]))
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = getattr(worker, order.pop("do"))(**order)
        except Exception as error:  # the parent puts it into the table
            answer = {"failed": described(error)}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
