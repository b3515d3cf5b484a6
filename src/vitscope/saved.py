"""What earlier runs left in a folder of explanations: read, compared with a new explanation, merged with it.

An image's folder collects the methods of several runs, as long as all of them explain the same: the same image, model,
weights, preprocessing and target, with the same versions. Anything else is refused by name; nothing is deleted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitscope.attribution import Subject, by_reason
from vitscope.errors import ImageError, VitscopeError
from vitscope.images import load_image
from vitscope.parse import as_unicode, parse_json
from vitscope.provenance import pixels_of

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
VIEW = "view.json"
VALUES = "values.npz"
LONGEST_NAME = 200
"""Bytes of an image's name that its folder keeps; most file systems take 255."""

SHOWN = frozenset({"label", "name", "files_as", "family", "signed", "class_specific", "cost", "options"})
"""What of a method's entry in the manifest is needed to show its map."""

ENDS = ("", ".blocks", ".heads")
"""What a method's arrays end in: the map, one a block, one a head."""

_NEXT = "choose another folder, or replace its results (--overwrite; in Python overwrite=True)"
_CLOSE, _CLOSE_IN_HALF = 1e-3, 5e-2  # of the largest output: one model differs by less from batch to batch

Json = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Saved:
    """The results of one image, as its folder holds them.

    Attributes:
        methods: the manifest's entry of each method, by label.
        failed: label -> why it has no map.
        files: names of the files.
        arrays: those of values.npz that belong to the methods.
        view: what a report shows; empty where there is nothing.
    """

    methods: Mapping[str, Json]
    failed: Mapping[str, str]
    files: tuple[str, ...]
    arrays: Mapping[str, NDArray[Any]]
    view: Json

    def merged_methods(self, new: Mapping[str, Json]) -> dict[str, Json]:
        """All entries: the earlier ones in their order, replaced where they come anew, then the others."""
        return {**self.methods, **new}

    def merged_failures(self, new: Mapping[str, str], labels: Iterable[str]) -> dict[str, str]:
        """The reasons of both, without the methods that have a map."""
        there = set(labels)
        return {label: reason for label, reason in {**self.failed, **new}.items() if label not in there}

    def merged_view(self, record: Json, failed: Mapping[str, str], root: Path) -> dict[str, Any]:
        """The record with the earlier methods, and with the earlier class lens where it has none itself.

        Args:
            record: of the new explanation, as `content_of` makes it.
            failed: the merged failures.
            root: the run's folder, where the file lies that the earlier lens needs.
        """
        methods = {one["label"]: one for one in (*self.view.get("methods", ()), *record["methods"])}
        failures = [{"methods": labels, "reason": reason} for reason, labels in by_reason(failed).items()]
        merged = {**record, "methods": list(methods.values()), "failures": failures}
        lens = self.view.get("lens", {"form": "none"})
        if record["lens"]["form"] == "none" != lens["form"] and (root / f"shared-{self.view['shared']}.json").is_file():
            merged |= {"lens": lens, "shared": self.view["shared"]}
        return merged


NOTHING = Saved({}, {}, (), {}, {})


def identity_of(subject: Subject, image: int) -> dict[str, Any]:
    """What an explained image has in common with all results that may lie beside it; a part of its manifest."""
    explained = subject.class_of(image)
    return {
        **subject.provenance,
        "image": {
            "pixels": pixels_of(subject.batch.originals[image]),
            "size": list(subject.geometries[image].original),
            "geometry": subject.geometries[image].describe(),
        },
        "target": subject.asked_of(image),
        "explained": explained and {key: explained[key] for key in ("index", "name")},
    }


def saved_in(folder: Path, identity: Json, options: Mapping[str, Json], logits: NDArray[Any]) -> Saved:
    """What earlier runs left of an image, to be merged with new results.

    Args:
        folder: of the image.
        identity: `identity_of` the new results.
        options: of each new method, by label.
        logits: the model's output for the image.

    Raises:
        VitscopeError: the results cannot be read, or are not of the same image, model, preprocessing and target.
    """
    manifest = check_mergeable(folder, identity, options)
    if manifest is None:
        return NOTHING
    try:
        saved, before = _read(folder, manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise VitscopeError(f"{folder}: its results cannot be read ({_line(error)}); {_NEXT}") from error
    close = _CLOSE if identity["running"]["precision"] == "float32" else _CLOSE_IN_HALF
    if before.shape != logits.shape or np.abs(before - logits).max() > close * np.abs(logits).max():
        raise VitscopeError(f"{folder}: holds maps of a model with other outputs for this image; {_NEXT}")
    return saved


def check_mergeable(folder: Path, identity: Json, options: Mapping[str, Json]) -> Json | None:
    """Compare what is to be explained with the manifest of an image's folder, before any pass.

    Args:
        folder: of the image.
        identity: `identity_of` the new results, or the part of it that is known.
        options: of each new method, by label.

    Returns:
        The manifest; None where there is none.

    Raises:
        VitscopeError: the manifest cannot be read, or belongs to something else.
    """
    file = folder / MANIFEST
    if not file.is_file():
        return None
    try:
        manifest = parse_json(file.read_text(encoding="utf-8"))
        if manifest["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {manifest['schema_version']}")
        methods = {str(entry["label"]): entry for entry in manifest["methods"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VitscopeError(f"{file}: cannot be read ({_line(error)}); {_NEXT}") from error
    now = json.loads(json.dumps({**identity, "methods": options}, default=str))
    before = {**manifest, "methods": {label: entry.get("options") for label, entry in methods.items()}}
    before["methods"] |= {label: now["methods"][label] for label in now["methods"] if label not in methods}
    causes = {key: now[key] for key in ("model", "preprocessing", "running", "target", "explained") if key in now}
    for part in ({"image": {"pixels": now["image"]["pixels"]}}, causes, now):  # the cause before what follows from it
        if found := _difference(before, part):
            raise VitscopeError(f"{folder}: holds maps {found}; {_NEXT}")
    if manifest.get("explained") is None and not methods.keys() <= options.keys():
        raise VitscopeError(
            f"{folder}: holds maps of {_shown(manifest.get('target'))}, which is no class, so that nothing tells "
            f"whether it is the same target; ask for all methods at once, {_NEXT}"
        )
    found_manifest: Json = manifest
    return found_manifest


def check_folders(root: Path, names: Mapping[str, str], identity: Json, options: Mapping[str, Json]) -> None:
    """Compare what is to be explained with what a folder holds of the same images, before any pass.

    Args:
        root: the run's folder.
        names: path of each image -> its folder in `root`.
        identity: what is known of `identity_of` for all of them.
        options: of each method, by label.

    Raises:
        VitscopeError: what is there cannot be read, or belongs to something else.
    """
    for path, name in names.items():
        if not (root / name / MANIFEST).is_file():
            continue
        try:
            image = {"image": {"pixels": pixels_of(load_image(path))}}
        except ImageError:
            continue  # the run itself says so
        check_mergeable(root / name, {**image, **identity}, options)


@dataclass(frozen=True)
class Run:
    """The images of a run's folder: path -> folder of its results, path -> why it failed."""

    written: Mapping[str, str]
    failed: Mapping[str, str]

    @classmethod
    def read(cls, root: Path) -> Run:
        """What earlier runs wrote there; nothing where there is no manifest.

        Raises:
            VitscopeError: the manifest cannot be read, or is not one of explained images.
        """
        file = root / MANIFEST
        if not file.is_file():
            return cls({}, {})
        try:
            content = parse_json(file.read_text(encoding="utf-8"))
            written, failed = ({str(k): str(v) for k, v in content[key].items()} for key in ("written", "failed"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise VitscopeError(f"{file}: is no manifest of explained images; choose another folder") from error
        return cls({path: name for path, name in written.items() if _plain(name)}, failed)

    def with_results(self, written: Mapping[str, str], failed: Mapping[str, str]) -> Run:
        """What a run adds; an image's earlier failure is forgotten where it was explained or failed again."""
        reasons = {as_unicode(path): why for path, why in failed.items()}
        earlier = {path: why for path, why in self.failed.items() if path not in written}
        return Run({**self.written, **written}, {**earlier, **reasons})

    def names_for(self, paths: Sequence[str]) -> dict[str, str]:
        """A folder for each image: that of an earlier run, or one after the image's name."""
        unique = list(dict.fromkeys(paths))
        known = {path: self.written[path] for path in unique if path in self.written}
        new = [path for path in unique if path not in known]
        known |= dict(zip(new, folder_names(new, known.values()), strict=True))
        return {path: known[path] for path in unique}


def folder_names(images: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """A folder's name for each image, after its file's name, with a number where several have the same."""
    used = {MANIFEST, *taken}
    names = []
    for image in images:
        stem = re.sub(r"[^\w.=-]+", "-", Path(image).stem).lstrip(".") or "image"
        stem = stem.encode()[:LONGEST_NAME].decode(errors="ignore")
        name, number = stem, 2
        while name in used:
            name, number = f"{stem}-{number}", number + 1
        used.add(name)
        names.append(name)
    return names


def files_in(folder: Path) -> tuple[str, ...]:
    """The files that an image's manifest lists and that are there; none where it cannot be read."""
    try:
        listed = parse_json((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return tuple(name for name in listed if _plain(name) and (folder / name).is_file())
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _read(folder: Path, manifest: Json) -> tuple[Saved, NDArray[Any]]:
    """The results, and the model's output."""
    methods = {entry["label"]: entry for entry in manifest["methods"]}
    with np.load(folder / VALUES, allow_pickle=False) as values:
        names = [f"{entry['files_as']}{end}" for entry in methods.values() for end in ENDS]
        arrays = {name: values[name] for name in names if name in values}
        logits = values["logits"]
    grid = tuple(manifest["grid"])
    for label, entry in methods.items():
        if missing := SHOWN - entry.keys():
            raise ValueError(f"{label} has no {min(missing)}")
        if not _plain(entry["files_as"]):
            raise ValueError(f"{label} names files elsewhere")
        if arrays[entry["files_as"]].shape != grid:
            raise ValueError(f"the map of {label} is not on the grid")
    view = parse_json((folder / VIEW).read_text(encoding="utf-8"))
    if view["schema_version"] != SCHEMA_VERSION or not re.fullmatch("[0-9a-f]+", view["shared"]):
        raise ValueError(f"{VIEW} is of another version")
    kept = [one for one in view["methods"] if one["label"] in methods]
    return Saved(methods, dict(manifest["failed"]), files_in(folder), arrays, {**view, "methods": kept}), logits


def _difference(before: Any, now: Any, name: str = "") -> str:
    """What of two records differs first, in words; "" where everything that `now` names is the same."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        parts = (_difference(before.get(key), now[key], f"{name} {key}".strip()) for key in now)
        return next(filter(None, parts), "")
    if before == now:
        return ""
    if name == "image pixels":
        return "of another image"
    return f"with another {name} ({_shown(before)}, and now {_shown(now)})"


def _shown(value: Any) -> str:
    return shorten(value if isinstance(value, str) else json.dumps(value), 60, placeholder=" ...")


def _plain(name: Any) -> bool:
    """Whether this is the name of something that lies in a folder itself."""
    return isinstance(name, str) and name != "" and Path(name).name == name and "\0" not in name


def _line(error: Exception) -> str:
    return shorten(f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error), 120)
