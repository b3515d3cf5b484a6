"""Writing an explanation to a folder: pictures, raw values, manifest; each file appears whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitscope.arrays import as_array
from vitscope.attribution import Attribution, Explanation, by_reason
from vitscope.errors import VitscopeError
from vitscope.images import Geometry
from vitscope.methods import family_of
from vitscope.report.lens import Lens
from vitscope.report.record import content_of
from vitscope.saved import (
    ENDS,
    MANIFEST,
    NOTHING,
    SCHEMA_VERSION,
    VALUES,
    VIEW,
    Json,
    Run,
    Saved,
    files_in,
    folder_names,
    identity_of,
    saved_in,
)
from vitscope.view.evolution import LONGEST, TILE, animate, cards, filmstrip
from vitscope.view.overlay import Ground, at_size
from vitscope.view.scale import COLOURS_END, clipped, global_max
from vitscope.view.sheet import sheet
from vitscope.view.tiles import Panel
from vitscope.view.video import usable

_ARGUMENTS = ("file", "allow_pickle")  # of numpy.savez_compressed, which takes arrays by name beside them
_FILE_ENDS = (*ENDS, "-evolution", "-heads")  # of what a method's files and arrays are called
_PNG_LEVEL = 1
"""Of zlib: a third of the default's time, for files that are 2 to 7 % larger."""


def save_explanation(
    explanation: Explanation,
    folder: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    lens: Lens | None = None,
    pictures: int | None = None,
    video: str | Iterable[str] = (),
    overwrite: bool = False,
) -> list[Path]:
    """Write a folder an image under `folder`, named after the image's file.

    In each: METHOD.png, the map over the photograph at its own size; METHOD-evolution.png (and .gif, .mp4, .webm, where
    asked for), where the method has a map a block; METHOD-heads.png, where it has one a head; sheet.png, all methods
    side by side; values.npz, the raw maps; view.json, what a report shows of the picture; and manifest.json, written
    last. METHOD is the method's label in signs that file names and arrays may have, with a number where another label
    has come to the same; the manifest names it beside the label, as `files_as`. Under `folder` itself stands what the
    pictures' reports have in common, shared-KEY.json.

    Where an earlier run left maps of the same image, model, weights, preprocessing and target, these stay, and all
    files then hold the methods of both.

    Args:
        explanation: what to write.
        folder: made where it is missing.
        names: of the images' folders; None takes the images' names.
        lens: the evidence of every class, for the report.
        pictures: how many will share a report; None takes the explanation's.
        video: kinds of moving evolution: "gif", or "mp4" and "webm" (extra `video`).
        overwrite: replace what an earlier run left of these images, whatever it is.

    Returns:
        The images' folders.

    Raises:
        VitscopeError: the folder cannot be written or holds something else of these images, or a video cannot be made
            here. In the first case nothing was written.
    """
    moving = usable(video)
    root = prepare_folder(folder)
    names = folder_names(explanation.subject.batch.names) if names is None else names
    earlier = [NOTHING if overwrite else _earlier(explanation, index, root / name) for index, name in enumerate(names)]
    content = content_of(explanation, lens, pictures)
    for key, shared in content["shared"].items():
        _write(root / f"shared-{key}.json", partial(_dump_small, shared))
    for index, name in enumerate(names):
        target = prepare_folder(root / name)
        replaced = set(files_in(target)) if overwrite else set()
        files = _save_image(explanation, index, content["pictures"][index], moving, target, earlier[index])
        for stale in replaced - set(files):
            (target / stale).unlink(missing_ok=True)
    return [root / name for name in names]


def _earlier(explanation: Explanation, index: int, folder: Path) -> Saved:
    options = {label: one.options for label, one in explanation.attributions.items()}
    logits = as_array(explanation.subject.logits[index])
    return saved_in(folder, identity_of(explanation.subject, index), options, logits)


def evolution_of(
    attribution: Attribution, index: int, longest: int, most: int | None = None
) -> tuple[Image.Image, NDArray[np.float32], list[str]]:
    """How one image's map accumulates over the blocks, ready for `filmstrip`.

    Args:
        attribution: with a map a block.
        index: which image.
        longest: side in pixels of the frames.
        most: at most so many frames, evenly chosen; the last block is always among them.

    Returns:
        The photograph at that size, the frames (blocks H W) in [0, 1] on one scale, and their labels.
    """
    assert attribution.blocks is not None
    flow = as_array(attribution.blocks[index]).cumsum(axis=0)
    count = len(flow)
    chosen = range(count) if most is None or count <= most else [round(count * (n + 1) / most) - 1 for n in range(most)]
    photo, geometry = attribution.subject.batch.originals[index], attribution.subject.geometries[index]
    view, frames = at_size(photo, geometry, clipped(flow[list(chosen)], flow[-1]), longest)
    return view, global_max(frames), [f"block {block + 1}" for block in chosen]


COLOURS = f"The colours end at the {100 * COLOURS_END:.0f} % quantile of a map's absolute values."
"""How the colours of `panels_of` are to be read."""


def panels_of(explanation: Explanation, index: int) -> list[Panel]:
    """One panel a method for one image; a method that failed has its reason in place of the map."""
    geometry = explanation.subject.geometries[index]
    panels = [
        _panel(_entry(one, one.label), _on_photo(as_array(one.values[index]), geometry))
        for one in explanation.attributions.values()
    ]
    return panels + _missing(explanation.failures)


def _panel(entry: Json, values: NDArray[np.float32]) -> Panel:
    """The panel of a method by its entry in the manifest."""
    scope = "for this class" if entry["class_specific"] else "the same for every class"
    note = f"{'signed' if entry['signed'] else 'unsigned'} · {scope}"
    if entry["label"] == entry["name"] and entry["cost"]:  # with other options it may cost something else
        budget = entry["options"].get("max_forwards")
        note += f"\nforwards: {entry['cost'] if budget is None else f'at most {budget}'}"
    return Panel(entry["label"], values, entry["signed"], note, entry["family"])


def _missing(failures: Mapping[str, str]) -> list[Panel]:
    return [
        Panel(label, None, False, reason, family_of(label))
        for reason, labels in by_reason(failures).items()
        for label in labels
    ]


def write_run_manifest(folder: Path, run: Run) -> None:
    """List a run's images."""
    content = {"schema_version": SCHEMA_VERSION, "written": dict(run.written), "failed": dict(run.failed)}
    _write(folder / MANIFEST, partial(_dump, content))


def prepare_folder(folder: str | os.PathLike[str]) -> Path:
    """Make a folder for results.

    Raises:
        VitscopeError: it cannot be made, or is a file.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VitscopeError(
            f"{path}: cannot be made a folder for results ({error.strerror}); choose another"
        ) from error
    return path


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    prepare_folder(path.parent)
    _write(path, partial(_png, picture))


def save_text(content: str, path: Path) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    prepare_folder(path.parent)
    _write(path, lambda passing: passing.write_text(content, encoding="utf-8"))


def _save_image(
    explanation: Explanation, index: int, record: Json, moving: Sequence[str], folder: Path, earlier: Saved
) -> list[str]:
    """Write an image's files; gives the names of all that the manifest lists."""
    subject = explanation.subject
    photo, geometry = subject.batch.originals[index], subject.geometries[index]
    files: list[str] = []

    def write(name: str, save: Callable[[Path], object]) -> None:
        _write(folder / name, save)
        files.append(name)

    names = _names_of(explanation.attributions, earlier.methods)
    methods = earlier.merged_methods({label: _entry(a, names[label]) for label, a in explanation.attributions.items()})
    failed = earlier.merged_failures(explanation.failures, methods)
    arrays = {"logits": as_array(subject.logits[index]), **earlier.arrays}
    for label, attribution in explanation.attributions.items():
        parts = (attribution.values, attribution.blocks, attribution.heads)
        arrays |= {
            f"{names[label]}{end}": as_array(part[index])
            for end, part in zip(ENDS, parts, strict=True)
            if part is not None
        }
    ground, panels = Ground(photo), []
    for label, entry in methods.items():
        shown = _on_photo(arrays[entry["files_as"]], geometry)
        panels.append(_panel(entry, shown))
        if label in explanation.attributions:
            write(f"{names[label]}.png", partial(_png, ground.overlay(shown, entry["signed"])))
            _write_series(explanation.attributions[label], index, names[label], moving, write)
    page = sheet(photo, panels + _missing(failed), subject.batch.names[index], subject.title(index), COLOURS)
    write("sheet.png", partial(_png, page))
    write(VALUES, partial(_save_arrays, arrays))
    write(VIEW, partial(_dump_small, earlier.merged_view(record, failed, folder.parent)))
    files += [name for name in earlier.files if name not in files]
    content = {**_manifest(explanation, index, methods, failed), "files": files}
    _write(folder / MANIFEST, partial(_dump, content))
    return files


def _write_series(
    attribution: Attribution,
    index: int,
    name: str,
    moving: Sequence[str],
    write: Callable[[str, Callable[[Path], object]], None],
) -> None:
    """The maps of one method's blocks and heads."""
    if attribution.blocks is not None:
        view, frames, labels = evolution_of(attribution, index, TILE)
        write(f"{name}-evolution.png", partial(_png, filmstrip(view, frames, labels, attribution.signed)))
        if moving:
            shown = cards(*evolution_of(attribution, index, LONGEST), attribution.signed)
            for kind in moving:
                write(f"{name}-evolution.{kind}", partial(animate, shown))
    if attribution.heads is not None:
        heads = as_array(attribution.heads[index])
        heads = clipped(heads, heads)
        photo, geometry = attribution.subject.batch.originals[index], attribution.subject.geometries[index]
        view, frames = at_size(photo, geometry, heads / heads.max(), TILE)
        write(f"{name}-heads.png", partial(_png, filmstrip(view, frames, [f"head {n}" for n in range(len(heads))])))


def _names_of(labels: Iterable[str], earlier: Mapping[str, Json]) -> dict[str, str]:
    """Label -> how its files and arrays are called: each its own, also where a file system is blind to case."""
    names = {label: str(entry["files_as"]) for label, entry in earlier.items()}
    taken = {"logits", "sheet", *_ARGUMENTS}
    taken |= {f"{name}{end}".casefold() for name in names.values() for end in _FILE_ENDS}
    for label in labels:
        if label in names:
            continue
        plain = name = re.sub(r"[^\w.=-]+", "-", label) or "map"
        number = 2
        while taken & (mine := {f"{name}{end}".casefold() for end in _FILE_ENDS}):
            name, number = f"{plain}-{number}", number + 1
        taken |= mine
        names[label] = name
    return names


def _entry(attribution: Attribution, files_as: str) -> dict[str, Any]:
    """What a manifest says of a method."""
    facts, options = dataclasses.asdict(attribution.facts), dict(attribution.options)
    return {**facts, "label": attribution.label, "files_as": files_as, "options": options}


def _manifest(
    explanation: Explanation, index: int, methods: Mapping[str, Json], failed: Mapping[str, str]
) -> dict[str, Any]:
    subject = explanation.subject
    identity = identity_of(subject, index)
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **identity,
        "image": {
            "name": subject.batch.names[index],
            **identity["image"],
            "notes": list(subject.batch.notes[index]),
        },
        "explained": subject.class_of(index),
        "prediction": subject.prediction(index),
        "methods": list(methods.values()),
        "failed": dict(failed),
        "display": {"colours_end_at_quantile": COLOURS_END},
    }


def _on_photo(values: NDArray[Any], geometry: Geometry) -> NDArray[np.float32]:
    return geometry.on_pixels(clipped(values, values))


def _write(path: Path, save: Callable[[Path], object]) -> None:
    """Save under a passing name, then move into place."""
    passing = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        save(passing)
        passing.replace(path)
    except OSError as error:
        raise VitscopeError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another folder"
        ) from error
    finally:
        passing.unlink(missing_ok=True)


def _png(picture: Image.Image, path: Path) -> None:
    picture.save(path, "PNG", compress_level=_PNG_LEVEL)


def _save_arrays(arrays: dict[str, np.ndarray[Any, Any]], path: Path) -> None:
    np.savez_compressed(path, allow_pickle=False, **arrays)


def _dump(content: Any, path: Path) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _dump_small(content: Any, path: Path) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")), encoding="utf-8")
