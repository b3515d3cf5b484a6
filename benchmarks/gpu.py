"""Every benchmark on one GPU, and a page with what they say: `make gpu`, or `python benchmarks/gpu.py --help`.

Each runs as a process of its own with a time limit; one that fails, or that is not there, has its reason in the page,
and the others go on. In OUT lie gpu.md, gpu.json, and a log a benchmark. `--device cpu --quick` runs all of it small,
which shows that the script works where there is no GPU, and says nothing about speed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Step:
    """One benchmark.

    Attributes:
        title: its heading.
        script: beside this file; "" for pytest.
        words: what follows its name; DEVICE and OUT stand for what was asked.
        quick: the same, small.
        minutes: after which it is given up.
    """

    title: str
    script: str
    words: str
    quick: str
    minutes: float = 20


COST = "--device DEVICE --threads 1 --json"
QUICK = f"--model vit_tiny_patch16_224 --batch 1 --rounds 1 {COST}"
BASE = "--model vit_base_patch16_224"
ALTERED = "--methods input-gradient,perturbation --alone"
STEPS = (
    Step(
        "The same maps as on the CPU",
        "",
        "-m gpu tests/test_devices.py",
        "-k 'pretended and evidence' tests/test_devices.py",
        30,
    ),
    Step(
        "Costs, ViT-B/16, batch 64", "cost.py", f"{BASE} --batch 64 --rounds 15 {COST}", f"--methods daam,cdam {QUICK}"
    ),
    Step("Costs, ViT-B/16, one picture", "cost.py", f"{BASE} --batch 1 --rounds 15 {COST}", f"--methods cdam {QUICK}"),
    Step("Costs, ViT-Ti/16, batch 256", "cost.py", f"--batch 256 --rounds 15 {COST}", f"--methods agcam {QUICK}"),
    Step(
        "Costs of methods that alter the picture, ViT-B/16, batch 2",
        "cost.py",
        f"{BASE} --batch 2 --rounds 3 {ALTERED} {COST}",
        f"--methods token_ablation:max_forwards=4 --alone {QUICK}",
        40,
    ),
    Step("Beside the libraries that make the same maps", "peers.py", "--device DEVICE", "--device DEVICE --rounds 1"),
    Step(
        "Precision",
        "precision.py",
        "--device DEVICE --batch 64 --limit 128",
        "--device DEVICE --batch 2 --limit 2 --rounds 1 --modes float32,bf16 --methods cdam",
    ),
    Step(
        "Memory at 518 px, DINOv2 ViT-S/14",
        "memory.py",
        "--device DEVICE",
        "--device DEVICE --model vit_tiny_patch16_224 --size 224 --batches 1 --methods cdam",
    ),
    Step("The way of the data", "data_path.py", "--device DEVICE", "--device DEVICE --quick"),
    Step(
        "20 000 scenes, maps",
        "scale.py",
        "run maps OUT/maps --device DEVICE --batch-size 64 --pictures OUT/pictures --seconds 1500",
        "run maps OUT/maps --device DEVICE --count 24 --part-size 8 --pictures OUT/pictures",
        30,
    ),
    Step(
        "20 000 scenes, rows",
        "scale.py",
        "run rows OUT/rows --device DEVICE --batch-size 64 --seconds 1500",
        "run rows OUT/rows --device DEVICE --count 24 --part-size 8",
        30,
    ),
)


def main() -> None:
    arguments = _arguments()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("gpu.py: torch.cuda.is_available() is False; for a dry run: --device cpu --quick")
    arguments.out.mkdir(parents=True, exist_ok=True)
    chosen = [step for step in STEPS if arguments.only in step.title]
    found: dict[str, Any] = {"machine": machine(arguments.device), "quick": arguments.quick, "steps": []}
    for number, step in enumerate(chosen, start=1):
        print(f"[{number}/{len(chosen)}] {step.title}", file=sys.stderr, flush=True)
        found["steps"].append(ran(step, arguments, arguments.out / f"{number:02}.log"))
        (arguments.out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
        (arguments.out / "gpu.md").write_text(page(found))
    print(page(found))
    sys.exit(1 if any(step["failed"] for step in found["steps"]) else 0)


def ran(step: Step, arguments: argparse.Namespace, log: Path) -> dict[str, Any]:
    """What a step printed, or why it failed."""
    words = command(step, arguments)
    place = {"OUT": str(arguments.out), "DEVICE": arguments.device}
    words = [_filled(word, place) for word in words]
    began, failed, text = time.monotonic(), "", ""
    if step.script and not (HERE / step.script).is_file():
        failed = f"benchmarks/{step.script} is not there"
    else:
        try:
            done = subprocess.run(
                [sys.executable, *words], capture_output=True, text=True, timeout=60 * step.minutes, cwd=HERE.parent
            )
            text = done.stdout
            log.write_text(done.stdout + done.stderr)
            if done.returncode:
                failed = f"exit code {done.returncode}: {_last_line(done.stderr) or _last_line(done.stdout)}"
        except subprocess.TimeoutExpired:
            failed = f"took more than {step.minutes:g} minutes"
    return {
        "title": step.title,
        "command": shlex.join(["python", *words]),
        "seconds": round(time.monotonic() - began, 1),
        "failed": failed,
        "output": text,
    }


def command(step: Step, arguments: argparse.Namespace) -> list[str]:
    """What follows `python`."""
    words = shlex.split(step.quick if arguments.quick else step.words)
    head = ["-m", "pytest", "-q"] if not step.script else [f"benchmarks/{step.script}"]
    return [*head, *words]


def _filled(word: str, place: Mapping[str, str]) -> str:
    for name, value in place.items():
        word = word.replace(name, value)
    return word


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else ""


def machine(device: str) -> dict[str, str]:
    """What the numbers hang on."""
    facts = {name: version(name) for name in ("vitscope", "torch", "timm")}
    facts |= {"python": platform.python_version(), "cpu cores": str(os.cpu_count())}
    if not device.startswith("cuda"):
        return {"device": f"{device} ({platform.machine()}): a dry run, no GPU", **facts}
    properties = torch.cuda.get_device_properties(device)
    driver = "unknown"
    if tool := shutil.which("nvidia-smi"):
        asked = subprocess.run(
            [tool, "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True
        )
        driver = _last_line(asked.stdout) or driver
    return {
        "device": f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB",
        "driver": driver,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        **facts,
    }


def page(found: Mapping[str, Any]) -> str:
    """The Markdown page."""
    lines = [f"## {found['machine']['device']}", ""]
    lines += [", ".join(f"{name} {value}" for name, value in found["machine"].items() if name != "device"), ""]
    if found["quick"]:
        lines += ["Every benchmark was run small, whatever its heading says: these are no measurements.", ""]
    lines += ["| benchmark | seconds | |", "|---|--:|---|"]
    for step in found["steps"]:
        lines.append(f"| {step['title']} | {step['seconds']:.0f} | {_cell(step['failed']) or 'done'} |")
    for step in found["steps"]:
        if not step["failed"]:
            lines += ["", f"### {step['title']}", "", f"    {step['command']}", "", *shown(step["output"])]
    return "\n".join(lines) + "\n"


def shown(output: str) -> Sequence[str]:
    """A table of costs where it is one, else what was printed."""
    try:
        told = json.loads(output)
    except ValueError:
        told = None
    if not isinstance(told, dict) or "cost" not in told:
        return ["```", *output.rstrip().splitlines(), "```"]
    batch, forward = told["setting"]["batch"], told["forward_s"]
    lines = [f"One forward {1e3 * forward:.2f} ms, {batch / forward:.0f} pictures a second.", ""]
    lines += ["| methods | forwards | quartiles | pictures a second | MiB at most |", "|---|--:|--:|--:|--:|"]
    for name, row in told["cost"].items():
        if "failed" in row:
            lines.append(f"| {name} | {_cell(row['failed'])} | | | |")
            continue
        peak = f"{row['peak_mib']:.0f}" if "peak_mib" in row else ""
        rate = batch / (forward * row["forwards"])
        lines.append(
            f"| {name} | {row['forwards']:.2f} | {row['low']:.2f} to {row['high']:.2f} | {rate:.3g} | {peak} |"
        )
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="one GPU: cuda, or cuda:1")
    parser.add_argument("--quick", action="store_true", help="everything small: whether it runs, not how fast")
    parser.add_argument("--only", default="", help="the benchmarks with this in their title")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "vitscope-gpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
