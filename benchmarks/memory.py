"""What each method takes of memory at high resolution: `make memory`, or `python benchmarks/memory.py --help`.

Every job runs in a process of its own, so that no high-water mark is another job's. In it the model is made and every
code path is warmed up on a tiny model; then the job runs once. On Linux's CPU the figure is the process's resident
high-water mark (VmHWM, reset before the job) over what was resident before it, with an allocator that gives large
blocks back at once (MALLOC_MMAP_THRESHOLD_); on a GPU it is the allocator's own peak over what was allocated before.

Beside the methods stand the plain forward, under inference mode, and one plain forward-and-backward of the same model,
`model(images).amax(1).sum().backward()`: with ordinary weights, which get gradients (their memory counts, as these are
made by the backward pass), and with frozen ones, where only the pictures do.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from vitscope import Explainer
from vitscope.images import prepare
from vitscope.methods import list_methods

PLAIN = {
    "forward": "plain forward",
    "backward": "plain forward and backward",
    "backward:frozen": "the same, weights frozen",
}
SET = "daam,agcam,cdam"
SLOW = ("input-gradient", "perturbation", "trivial")
"""Families that run the model on altered pictures, as many at once as fit, or not at all."""


def main() -> None:
    arguments = _arguments()
    if arguments.one:
        print(json.dumps(measured(arguments.one, arguments)))
        return
    jobs = [*PLAIN, SET, *(arguments.methods.split(";") if arguments.methods else default_methods())]
    found: dict[str, dict[int, float | str]] = {}
    for job in dict.fromkeys(jobs):
        found[job] = {batch: _in_a_process(job, batch, arguments) for batch in arguments.batches}
        if not arguments.json:
            print(f"{job}: {found[job]}", file=sys.stderr, flush=True)
    setting = {key: value for key, value in vars(arguments).items() if key != "one"}
    print(json.dumps({"setting": setting, "mib": found}) if arguments.json else table(found, arguments.batches))


def default_methods() -> list[str]:
    """Every registered method but those of the slow families."""
    return [facts.name for facts in list_methods() if facts.family not in SLOW]


def measured(job: str, arguments: argparse.Namespace) -> dict[str, float | str]:
    """The peak of one job in this process, in MiB."""
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    tiny = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval().to(device)
    _run(job, tiny, torch.randn(2, 3, 32, 32, device=device), None)()
    model = timm.create_model(arguments.model, img_size=arguments.size, num_classes=1000).eval().to(device)
    images = torch.randn(arguments.batches[0], 3, arguments.size, arguments.size).to(device)
    run = _run(job, model, images, arguments.memory_limit)
    gc.collect()
    try:
        return {"mib": _peak(run, device) / 2**20}
    except torch.cuda.OutOfMemoryError:
        return {"failed": "out of memory"}


def _run(job: str, model: nn.Module, images: Tensor, limit: str | None) -> Callable[[], object]:
    """The job, ready to be run: nothing of it is left but its work."""
    if job == "forward":
        return lambda: _forward(model, images)
    if job.startswith("backward"):
        model.requires_grad_(job == "backward")
        return lambda: _backward(model, images)
    model.default_cfg = timm.get_pretrained_cfg(
        "vit_tiny_patch16_224"
    ).to_dict()  # its preprocessing, which is not used
    explainer = Explainer(model, memory_limit=limit)
    batch = prepare(images, explainer.preprocessing)
    return lambda: explainer(batch, job, strict=False)


def _forward(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(images)


def _backward(model: nn.Module, images: Tensor) -> None:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        images = images.detach().requires_grad_()
    model(images).amax(dim=1).sum().backward()
    model.zero_grad()


def _peak(run: Callable[[], object], device: torch.device) -> int:
    """Bytes that `run` takes at most over what was there before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark becomes what is resident now
    before = _resident("VmRSS")
    run()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _in_a_process(job: str, batch: int, arguments: argparse.Namespace) -> float | str:
    """The median over some processes, in MiB, or why there is none."""
    words = [sys.executable, __file__, "--one", job, "--batches", str(batch), "--model", arguments.model]
    words += ["--size", str(arguments.size), "--threads", str(arguments.threads), "--device", arguments.device]
    words += [] if arguments.memory_limit is None else ["--memory-limit", arguments.memory_limit]
    allocator = {} if arguments.plain_allocator else {"MALLOC_MMAP_THRESHOLD_": str(2**16)}
    found = []
    for _ in range(arguments.rounds):
        done = subprocess.run(words, env={**os.environ, **allocator}, capture_output=True, text=True, check=False)
        if done.returncode:
            return (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        one = json.loads(done.stdout.splitlines()[-1])
        if "failed" in one:
            return one["failed"]
        found.append(one["mib"])
    return round(statistics.median(found), 1)


def table(found: dict[str, dict[int, float | str]], batches: list[int]) -> str:
    """In Markdown, with each job's share of one plain forward-and-backward."""
    lines = [
        "| | " + " | ".join(f"batch {batch}" for batch in batches) + " | of a plain forward and backward |",
        "|---|" + "--:|" * (len(batches) + 1),
    ]
    for job, row in found.items():
        cells = [f"{value:.0f} MiB" if isinstance(value, float) else value for value in row.values()]
        shares = [
            f"{value / other:.2f}"
            for value, other in zip(row.values(), found["backward"].values(), strict=True)
            if isinstance(value, float) and isinstance(other, float)
        ]
        lines.append(f"| {PLAIN.get(job, f'`{job}`')} | " + " | ".join(cells) + f" | {' '.join(shares)} |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_small_patch14_dinov2")
    parser.add_argument("--size", type=int, default=518, help="input size in pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--methods", help="each measured by itself, with semicolons between; otherwise all fast ones")
    parser.add_argument("--rounds", type=int, default=1, help="processes a figure, of which the median is taken")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-limit", help="of the methods, as for vitscope")
    parser.add_argument("--plain-allocator", action="store_true", help="the allocator as it is")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
