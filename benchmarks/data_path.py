"""What share of the time the model waits for pictures: `python benchmarks/data_path.py --help`.

JPEG photographs of two sizes are made first: random shapes and grain, so that decoding them is as much work as usual.
Then they are explained batch by batch, as `vitscope explain --store` does it, with each number of reading processes in
turn, over and over; the share is the time spent in waiting for pictures (with no process: in reading them) over the
whole time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image, ImageFilter

from vitscope import Explainer
from vitscope.images import Batch, Preprocessing, ReadAhead, prepare

SIZES = ((500, 375), (4000, 3000))
MODELS = ("vit_tiny_patch16_224", "vit_small_patch16_224")
HOW = Preprocessing((224, 224), "bicubic", 0.9, "center", (0.5,) * 3, (0.5,) * 3)


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            model = timm.create_model(name).eval().to(arguments.device)
            explainer = Explainer(model, preprocessing=HOW)
            for size in SIZES:
                count = arguments.count if size == SIZES[0] else max(arguments.batch * 2, arguments.count // 4)
                names = photographs(Path(folder) / f"{size[0]}", size, count)
                runs = {workers: [] for workers in arguments.workers}
                for _ in range(arguments.rounds):
                    for workers, found in runs.items():
                        found.append(once(explainer, names, arguments.methods, arguments.batch, workers))
                for workers, found in runs.items():
                    share, rate = (statistics.median(values) for values in zip(*found, strict=True))
                    spread = [
                        round(100 * edge(shares)) for shares in [[one[0] for one in found]] for edge in (min, max)
                    ]
                    rows.append(
                        {
                            "model": name,
                            "size": size,
                            "workers": workers,
                            "share": share,
                            "spread": spread,
                            "rate": rate,
                        }
                    )
    if arguments.json:
        print(json.dumps({"setting": vars(arguments), "rows": rows}))
        return
    print("| model | pictures | workers | waiting for pictures | pictures a second |\n|---|---|--:|--:|--:|")
    for row in rows:
        low, high = row["spread"]
        print(
            f"| {row['model']} | {row['size'][0]} x {row['size'][1]} | {row['workers']} "
            f"| {100 * row['share']:.0f} % ({low} to {high}) | {row['rate']:.1f} |"
        )


def photographs(folder: Path, size: tuple[int, int], count: int) -> list[str]:
    """Their paths; made where they are missing, a few of them anew and the others as copies of these."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    contents: list[bytes] = []
    names = [folder / f"{index:04d}.jpg" for index in range(count)]
    for index, path in enumerate(names):
        if index < 4:
            coarse = rng.integers(0, 256, (size[1] // 20, size[0] // 20, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1))
            grain = rng.normal(0, 6, (size[1], size[0], 3))
            Image.fromarray((np.asarray(picture) + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
            contents.append(path.read_bytes())
        else:
            path.write_bytes(contents[index % 4])
    return list(map(str, names))


def once(explainer: Explainer, names: Sequence[str], methods: str, batch: int, workers: int) -> tuple[float, float]:
    """The share of the time that was spent on waiting, and pictures a second."""
    device = next(explainer.anatomy.model.parameters()).device
    with ReadAhead(partial(_read, preprocessing=explainer.preprocessing), workers=workers, ahead=batch) as reader:
        began = time.perf_counter()
        reader.expect(names)
        for start in range(0, len(names), batch):
            found = reader.take(names[start : start + batch])
            explanation = explainer(Batch.join(found, device), methods, strict=False)
            for one in explanation.attributions.values():
                one.values.cpu()
        whole = time.perf_counter() - began
        return reader.waited / whole, len(names) / whole


def _read(path: str, preprocessing: Preprocessing) -> Batch:
    return prepare(path, preprocessing).light()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--methods", default="daam,agcam,cdam")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=64, help="pictures; of the large ones a quarter, or two batches")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
