"""What the viewer shows of one picture, as plain data: maps, evolution, lens, and what was explained."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitscope.arrays import as_array
from vitscope.attribution import Attribution, Explanation, by_reason, half_of, shares_of
from vitscope.images import Geometry
from vitscope.report.lens import Lens
from vitscope.report.packing import exact
from vitscope.view.overlay import picture_size
from vitscope.view.palette import table_of
from vitscope.view.scale import COLOURS_END

SCHEMA_VERSION = 1
LONGEST = 896
"""Longest side of the photograph on a page, in pixels."""

SEQUENTIAL = ("inferno", "viridis", "cividis", "gray")
DIVERGING = ("RdBu_r", "PuOr_r", "BrBG_r")
"""Palettes of the viewer, the house's own first; all can be told apart by colour-blind eyes."""


def content_of(explanation: Explanation, lens: Lens | None = None, pictures: int | None = None) -> dict[str, Any]:
    """All that a page shows of an explanation, ready for JSON.

    Args:
        explanation: what is shown.
        lens: of the same pictures; None leaves the class lens out.
        pictures: how many share the page, and so one classifier; None takes the explanation's.

    Returns:
        `pictures`, a record each; and `shared`, what pictures of one model have in common, under the key that their
        records have as their own `shared`: the names of the classes, and the classifier where the lens needs it.
    """
    lens = lens or Lens(reason="it was not asked for; explain with --report, or give evidence of the same pictures")
    count, subject = pictures or len(explanation), explanation.subject
    outputs = subject.logits.shape[1] if subject.classifier else 0
    shared = {"classes": [subject.names[index] for index in range(outputs)], "weight": lens.weight(count)}
    key = hashlib.sha256(json.dumps(shared).encode()).hexdigest()[:12]
    records = [_record(explanation, image, key, lens.record(image, count)) for image in range(len(explanation))]
    return {"pictures": records, "shared": {key: shared}}


def palettes() -> dict[str, Any]:
    """The colours of the viewer: 257 RGB triples each, from the lowest value to the highest."""

    def packed(names: tuple[str, ...]) -> dict[str, str]:
        return {name: base64.b64encode(table_of(name).tobytes()).decode() for name in names}

    return {"sequential": packed(SEQUENTIAL), "diverging": packed(DIVERGING), "end": COLOURS_END}


def window_of(geometry: Geometry) -> list[float]:
    """Top, left, height and width of the model's window, in shares of the original picture; it may reach beyond."""
    top, left, height, width = geometry.crop
    rows, cols = geometry.resized
    return [top / rows, left / cols, height / rows, width / cols]


def _record(explanation: Explanation, image: int, shared: str, lens: dict[str, Any]) -> dict[str, Any]:
    subject = explanation.subject
    photo, geometry = subject.batch.originals[image], subject.geometries[image]
    failures = by_reason(explanation.failures)
    return {
        "schema_version": SCHEMA_VERSION,
        "name": subject.batch.names[image],
        "title": subject.title(image),
        "photo": _photo(photo),
        "size": list(geometry.original),
        "notes": list(subject.batch.notes[image]),
        "window": window_of(geometry),
        "asked": subject.asked_of(image),
        "explained": subject.class_of(image),
        "prediction": subject.prediction(image),
        "logits": exact(subject.logits[image]) if subject.classifier else None,
        "provenance": _provenance(subject.provenance),
        "geometry": geometry.describe(),
        "methods": [_method(attribution, image) for attribution in explanation.attributions.values()],
        "failures": [{"methods": labels, "reason": reason} for reason, labels in failures.items()],
        "shared": shared,
        "lens": lens,
    }


def _method(attribution: Attribution, image: int) -> dict[str, Any]:
    facts = asdict(attribution.facts)
    kept = ("name", "title", "family", "paper", "year", "signed", "class_specific", "cost", "caution")
    blocks = None if attribution.blocks is None else as_array(attribution.blocks[image])
    return {
        "label": attribution.label,
        **{key: facts[key] for key in kept},
        "cautions": attribution.facts.cautions,
        "options": {key: _plain(value) for key, value in attribution.options.items()},
        "values": exact(attribution.values[image]),
        "blocks": None if blocks is None else exact(blocks),
        "flow": None if blocks is None else _flow(blocks),
    }


def _provenance(known: Mapping[str, Any]) -> dict[str, Any]:
    """As it is, but of paths the last part alone: a report is passed on to others."""
    model = dict(known["model"])
    for key in ("model", "weights"):
        if model.get(key) and Path(model[key]).is_absolute():
            model[key] = Path(model[key]).name
    return {**known, "model": model}


def _flow(blocks: NDArray[Any]) -> dict[str, Any] | None:
    """Each block's share of the accumulated evidence, and the block at which half of it is there."""
    share = shares_of(blocks)
    if not np.isfinite(share).all():
        return None
    return {"share": share.tolist(), "half": float(half_of(share))}


def shown(photo: Image.Image) -> Image.Image:
    """What a page shows of a photograph: no larger than `LONGEST`."""
    if max(photo.size) <= LONGEST:
        return photo
    return photo.resize(picture_size(photo, LONGEST), Image.Resampling.LANCZOS)


def _photo(photo: Image.Image) -> str:
    """As the address of itself."""
    buffer = io.BytesIO()
    shown(photo).save(buffer, "WEBP", quality=88, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _plain(value: Any) -> Any:
    """An option as JSON has it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
