"""How long explaining and saving photographs takes, also beside a busy process: `python benchmarks/saving.py --help`.

What `vitscope explain --report` does after the model is loaded, in a process of its own each time: on one core with
one thread, and beside a process that keeps a core busy, with one thread and with torch's default. Photographs are
ImageNet's where they are at hand (VITSCOPE_SHARED), else drawn scenes of 500 x 375 pixels. Seconds of the clock and of
the processor stand side by side: on a machine that is busy anyway, only the second ones mean something.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

SHARED = Path(os.environ.get("VITSCOPE_SHARED", Path(__file__).parents[2] / "shared"))
SIZE = (500, 375)
SETTINGS = {
    "1 thread, one core": {"threads": 1, "neighbour": False, "cores": 1},
    "1 thread, busy neighbour": {"threads": 1, "neighbour": True, "cores": None},
    "default threads, busy neighbour": {"threads": None, "neighbour": True, "cores": None},
}
IDLE, ONE, DEFAULT = SETTINGS


def main() -> None:
    arguments = _arguments()
    if arguments.once is not None:
        print(json.dumps(once(arguments)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in SETTINGS}
    with tempfile.TemporaryDirectory() as folder:
        images = photographs(Path(folder), arguments.count)
        for _ in range(arguments.rounds):
            for name, setting in SETTINGS.items():
                found[name].append(measured(arguments, images, Path(folder) / "out", **setting))
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()
    }
    print(f"{arguments.count} photographs, {arguments.methods}, with a report:\n")
    print("| | seconds | of the processor | in the model | reading | saving |\n|---|--:|--:|--:|--:|--:|")
    for name, run in medians.items():
        cells = " | ".join(f"{run[key]:.1f}" for key in ("wall", "cpu", "model", "reading", "saving"))
        print(f"| {name} | {cells} |")
    ratio = medians[DEFAULT]["wall"] / medians[ONE]["wall"]
    saving = medians[DEFAULT]["saving"] / medians[ONE]["saving"]
    print(
        f"\nbeside a busy process, default threads over one thread: {ratio:.2f} (bound 1.5), saving alone {saving:.2f}"
    )
    print(f"one core: {medians[IDLE]['wall']:.1f} s, {medians[IDLE]['cpu']:.1f} s of the processor (bound 15 for 40)")


def measured(
    arguments: argparse.Namespace, images: Path, out: Path, threads: int | None, neighbour: bool, cores: int | None
) -> dict[str, float]:
    """One run in a process of its own."""
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    words = [sys.executable, __file__, "--once", str(images), "--out", str(out), "--methods", arguments.methods]
    words += ["--model", arguments.model, *(["--cores", str(cores)] if cores else [])]
    words += ["--weights", str(arguments.weights)] if arguments.weights else []
    with busy(neighbour):
        said = subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout
    seconds: dict[str, float] = json.loads(said.splitlines()[-1])
    return seconds


@contextmanager
def busy(wanted: bool):
    """A process that keeps the first core busy."""
    if not wanted:
        yield
        return
    core = min(os.sched_getaffinity(0))
    with subprocess.Popen(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{core}])\nwhile True: pass"]
    ) as one:
        try:
            yield
        finally:
            one.kill()


def once(arguments: argparse.Namespace) -> dict[str, float]:
    """Explain and save the images of a folder; seconds in all, and of the parts."""
    if arguments.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-arguments.cores :])
    from vitscope.cli.common import wait_passively

    wait_passively()  # as the command does, before torch is imported
    from vitscope import Explainer
    from vitscope.images import prepare
    from vitscope.report import lens_of
    from vitscope.report.folder import PER_PAGE, write_report
    from vitscope.save import save_explanation

    paths = sorted(map(str, Path(arguments.once).iterdir()))
    explainer = Explainer(arguments.model, arguments.weights, pretrained=False)
    spent = dict.fromkeys(("reading", "model", "saving"), 0.0)

    @contextmanager
    def timed(part):
        began = time.perf_counter()
        yield
        spent[part] += time.perf_counter() - began

    with tempfile.TemporaryDirectory(dir=Path(arguments.out).parent) as out:
        began, processor = time.perf_counter(), time.process_time()
        for start in range(0, len(paths), 8):
            with timed("reading"):
                batch = prepare(paths[start : start + 8], explainer.preprocessing)
            with timed("model"):
                explanation = explainer(batch, arguments.methods, strict=False)
                lens = lens_of(explainer, batch)
            with timed("saving"):
                save_explanation(explanation, out, lens=lens, pictures=min(len(paths), PER_PAGE))
        with timed("saving"):
            write_report(out)
        return {"wall": time.perf_counter() - began, "cpu": time.process_time() - processor, **spent}


def photographs(folder: Path, count: int) -> Path:
    """A folder of `count` photographs."""
    images = folder / "images"
    images.mkdir()
    there = sorted((SHARED / "imagenet" / "val").glob("*.JPEG"))[:count]
    for path in there:
        (images / path.name).symlink_to(path)
    if len(there) < count:
        from PIL import Image

        from vitscope.datasets import Scenes

        for index, scene in enumerate(Scenes(count - len(there), seed=1)):
            drawn = Image.fromarray(scene.image).resize(SIZE, Image.Resampling.BICUBIC)
            drawn.save(images / f"scene-{index:03d}.jpg", quality=92)
    return images


def _arguments() -> argparse.Namespace:
    there = SHARED / "weights" / "vit_tiny_patch16_224.safetensors"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="timm/vit_tiny_patch16_224")
    parser.add_argument("--weights", default=there if there.is_file() else None, help="otherwise random")
    parser.add_argument("--methods", default="daam,agcam,cdam")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--once", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
