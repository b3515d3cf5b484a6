"""Writing an explanation to a folder: pictures, raw values, manifest; each file appears whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from vitscope.attribution import Attribution, Explanation, by_reason
from vitscope.errors import VitscopeError
from vitscope.methods import family_of
from vitscope.parse import as_unicode, parse_json
from vitscope.report.lens import Lens
from vitscope.report.record import content_of
from vitscope.view.evolution import LONGEST, animate, cards, filmstrip
from vitscope.view.overlay import at_size, overlay
from vitscope.view.scale import COLOURS_END, clipped, global_max
from vitscope.view.sheet import sheet
from vitscope.view.tiles import Panel
from vitscope.view.video import usable

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
VIEW = "view.json"
_ARGUMENTS = ("file", "allow_pickle")  # of numpy.savez_compressed, which takes arrays by name beside them
_ENDS = ("", ".blocks", ".heads", "-evolution", "-heads")  # of what a method's files and arrays are called
LONGEST_NAME = 200
"""Bytes of a picture's name that its folder keeps; most file systems take 255."""


def save_explanation(
    explanation: Explanation,
    folder: str | os.PathLike[str],
    taken: Collection[str] = (),
    lens: Lens | None = None,
    pictures: int | None = None,
    video: str | Iterable[str] = (),
) -> list[Path]:
    """Write a folder an image under `folder`, named after the image's file.

    In each: METHOD.png, the map over the photograph at its own size; METHOD-evolution.png and .gif (.mp4, .webm),
    where the method has a map a block; METHOD-heads.png, where it has one a head; sheet.png, all methods side by side;
    values.npz, the raw maps; view.json, what a report shows of the picture; and manifest.json, written last. METHOD is
    the method's label in signs that file names and arrays may have, with a number where another label has come to the
    same; the manifest names it beside the label, as `files_as`. Under `folder` itself stands what the pictures' reports
    have in common, shared-KEY.json.

    Args:
        explanation: what to write.
        folder: made where it is missing.
        taken: names of folders that other images of the same run have.
        lens: the evidence of every class, for the report.
        pictures: how many will share a report; None takes the explanation's.
        video: kinds of video beside the GIF, "mp4" or "webm" (extra `video`).

    Returns:
        The images' folders.

    Raises:
        VitscopeError: the folder cannot be written, or a video cannot be made here.
    """
    moving = ("gif", *usable(video))
    root = prepare_folder(folder)
    names: list[str] = []
    content = content_of(explanation, lens, pictures)
    for key, shared in content["shared"].items():
        _write(root / f"shared-{key}.json", partial(_dump_small, shared))
    for index, name in enumerate(explanation.subject.batch.names):
        stem = re.sub(r"[^\w.=-]+", "-", Path(name).stem).lstrip(".") or "image"
        stem = stem.encode()[:LONGEST_NAME].decode(errors="ignore")
        unique, number = stem, 2
        while unique in names or unique in taken or unique == MANIFEST:
            unique, number = f"{stem}-{number}", number + 1
        names.append(unique)
        _save_image(explanation, index, content["pictures"][index], moving, prepare_folder(root / unique))
    return [root / name for name in names]


def evolution_of(
    attribution: Attribution, index: int, longest: int, most: int | None = None
) -> tuple[Image.Image, Tensor, list[str]]:
    """How one image's map accumulates over the blocks, ready for `filmstrip`.

    Args:
        attribution: with a map a block.
        index: which image.
        longest: side in pixels of the frames.
        most: at most so many frames, evenly chosen; the last block is always among them.

    Returns:
        The photograph at that size, the frames (blocks H W) in [0, 1] on one scale, and their labels.
    """
    assert attribution.flow is not None
    flow = attribution.flow[index]
    count = len(flow)
    chosen = range(count) if most is None or count <= most else [round(count * (n + 1) / most) - 1 for n in range(most)]
    photo, geometry = attribution.subject.batch.originals[index], attribution.subject.geometries[index]
    view, frames = at_size(photo, geometry, clipped(flow[list(chosen)], flow[-1]), longest)
    return view, global_max(frames), [f"block {block + 1}" for block in chosen]


COLOURS = f"The colours end at the {100 * COLOURS_END:.0f} % quantile of a map's absolute values."
"""How the colours of `panels_of` are to be read."""


def panels_of(explanation: Explanation, index: int) -> list[Panel]:
    """One panel a method for one image; a method that failed has its reason in place of the map."""
    panels = []
    for label, attribution in explanation.attributions.items():
        facts = attribution.facts
        scope = "for this class" if facts.class_specific else "the same for every class"
        note = f"{'signed' if facts.signed else 'unsigned'} · {scope}"
        if label == facts.name:  # with other options it may cost something else
            budget = attribution.options.get("max_forwards")
            note += f"\nforwards: {facts.cost if budget is None else f'at most {budget}'}"
        panels.append(Panel(label, _on_photo(attribution, index), facts.signed, note, facts.family))
    for reason, labels in by_reason(explanation.failures).items():
        panels += [Panel(label, None, False, reason, family_of(label)) for label in labels]
    return panels


def write_run_manifest(folder: Path, written: Mapping[str, str], failed: Mapping[str, str]) -> None:
    """List a run's images: path -> folder of its results, path -> why it failed."""
    reasons = {as_unicode(path): why for path, why in failed.items()}
    content = {"schema_version": SCHEMA_VERSION, "written": dict(written), "failed": reasons}
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
    explanation: Explanation, index: int, record: Mapping[str, Any], moving: Collection[str], folder: Path
) -> None:
    subject = explanation.subject
    photo = subject.batch.originals[index]
    animated = min(LONGEST, max(photo.size))
    files: list[str] = []

    def write(name: str, save: Callable[[Path], object]) -> None:
        _write(folder / name, save)
        files.append(name)

    before = _files_of_an_earlier_run(folder)
    arrays = {"logits": subject.logits[index]}
    names = _names_of(explanation.attributions)
    for label, attribution in explanation.attributions.items():
        name = names[label]
        arrays[name] = attribution.values[index]
        picture = overlay(photo, _on_photo(attribution, index), attribution.signed)
        write(f"{name}.png", partial(_png, picture))
        if attribution.flow is not None and attribution.blocks is not None:
            arrays[f"{name}.blocks"] = attribution.blocks[index]
            view, frames, labels = evolution_of(attribution, index, animated)
            write(f"{name}-evolution.png", partial(_png, filmstrip(view, frames, labels, attribution.signed)))
            shown = cards(view, frames, labels, attribution.signed)
            for kind in moving:
                write(f"{name}-evolution.{kind}", partial(animate, shown))
        if attribution.heads is not None:
            arrays[f"{name}.heads"] = attribution.heads[index]
            labels = [f"head {number}" for number in range(attribution.heads.shape[1])]
            heads = clipped(attribution.heads[index], attribution.heads[index])
            view, frames = at_size(photo, subject.geometries[index], heads / heads.max(), animated)
            write(f"{name}-heads.png", partial(_png, filmstrip(view, frames, labels)))
    page = sheet(photo, panels_of(explanation, index), subject.batch.names[index], subject.title(index), COLOURS)
    write("sheet.png", partial(_png, page))
    numbers = {key: array.cpu().float().numpy() for key, array in arrays.items()}
    write("values.npz", partial(_save_arrays, numbers))
    write(VIEW, partial(_dump_small, record))
    content = {**_manifest(explanation, index, names), "files": files}
    _write(folder / MANIFEST, partial(_dump, content))
    for stale in before - set(files):
        (folder / stale).unlink(missing_ok=True)


def _names_of(labels: Iterable[str]) -> dict[str, str]:
    """Label -> how its files and arrays are called: each its own, also where a file system is blind to case."""
    taken = {"logits", "sheet", *_ARGUMENTS}
    names = {}
    for label in labels:
        plain = name = re.sub(r"[^\w.=-]+", "-", label) or "map"
        number = 2
        while taken & (mine := {f"{name}{end}".casefold() for end in _ENDS}):
            name, number = f"{plain}-{number}", number + 1
        taken |= mine
        names[label] = name
    return names


def _manifest(explanation: Explanation, index: int, names: Mapping[str, str]) -> dict[str, Any]:
    subject = explanation.subject
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **subject.provenance,
        "image": {
            "name": subject.batch.names[index],
            "size": list(subject.geometries[index].original),
            "geometry": subject.geometries[index].describe(),
            "notes": list(subject.batch.notes[index]),
        },
        "target": subject.asked_of(index),
        "explained": subject.class_of(index),
        "prediction": subject.prediction(index),
        "methods": [
            {**dataclasses.asdict(a.facts), "label": label, "files_as": names[label], "options": dict(a.options)}
            for label, a in explanation.attributions.items()
        ],
        "failed": dict(explanation.failures),
        "display": {"colours_end_at_quantile": COLOURS_END},
    }


def _on_photo(attribution: Attribution, index: int) -> Tensor:
    values = attribution.values[index]
    return attribution.subject.geometries[index].to_original(clipped(values, values))


def _files_of_an_earlier_run(folder: Path) -> set[str]:
    """What an earlier run wrote here by its manifest, to be taken away where this run does not write it anew."""
    try:
        listed = parse_json((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        names = {name for name in listed if isinstance(name, str) and Path(name).name == name and "\0" not in name}
        return {name for name in names if not (folder / name).is_dir()}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


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
    picture.save(path, "PNG")


def _save_arrays(arrays: dict[str, np.ndarray[Any, Any]], path: Path) -> None:
    np.savez_compressed(path, allow_pickle=False, **arrays)


def _dump(content: Any, path: Path) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _dump_small(content: Any, path: Path) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")), encoding="utf-8")
