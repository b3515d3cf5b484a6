"""What runs read and leave, made up."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vitscope.datasets import Scenes

TYPES = (pa.string(), pa.string(), pa.string(), pa.float64(), pa.int64(), pa.int64(), pa.string())
NAMES = ("image", "method", "metric", "value", "target", "prediction", "error")


def row(image, method, metric, value, target=None, prediction=None, error=""):
    return image, method, metric, value, target, prediction, error


def write(folder, rows, parts=1, manifest=None):
    """A manifest and the rows, dealt out over parts."""
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest or {"plan": {"model": "m", "dataset": {"dataset": "d"}}}))
    for part in range(parts):
        dealt = rows[part::parts]
        columns = list(zip(*dealt, strict=True)) or [[]] * len(NAMES)
        arrays = [pa.array(column, kind) for column, kind in zip(columns, TYPES, strict=True)]
        pq.write_table(pa.Table.from_arrays(arrays, names=list(NAMES)), folder / f"parts/part-{part:05d}.parquet")
    return folder


def rows_of_values(metric, values):
    """Of method -> an array over images, None where there is no row."""
    return [
        row(f"i{place:05d}", method, metric, None if value is None else float(value))
        for method, column in values.items()
        for place, value in enumerate(np.asarray(column, dtype=object))
        if value is not None
    ]


def mask_folder(home, count=6):
    """A folder with masks of so many scenes, each of its first object's class."""
    for name in ("images", "masks"):
        (home / name).mkdir(parents=True)
    lines = ["image,label"]
    for index, scene in enumerate(Scenes(count, seed=int(np.random.default_rng().integers(1000)))):
        Image.fromarray(scene.image).save(home / "images" / f"{index}.png")
        Image.fromarray(scene.mask().astype(np.uint8) * 255).save(home / "masks" / f"{index}.png")
        lines.append(f"{index}.png,{scene.labels[0]}")
    (home / "labels.csv").write_text("\n".join(lines))
    return home
