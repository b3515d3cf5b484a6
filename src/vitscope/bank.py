"""Building a memory bank: the features of labelled pictures, in parts, so that an interrupted run goes on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vitscope.datasets.labelled import Labelled
from vitscope.errors import ImageError, TargetError, VitscopeError
from vitscope.explainer import Explainer
from vitscope.images import Batch, prepare
from vitscope.parse import parse_json
from vitscope.provenance import parameters_of
from vitscope.targets import ClassNames, MemoryBank
from vitscope.targets.bank import check_bank

PART = 1024
"""Pictures in a part: what an interruption loses at most."""


@dataclass(frozen=True)
class Built:
    """A finished bank, and the pictures that could not be read, with the reason."""

    bank: MemoryBank
    failed: Mapping[str, str]


def build_bank(
    explainer: Explainer,
    dataset: Labelled,
    out: str | os.PathLike[str],
    batch_size: int = 32,
    progress: Callable[[int], object] = lambda done: None,
) -> Built:
    """Write the features of all pictures of a dataset to one file, in float16.

    Finished parts lie in a folder beside the file while it is built; a run with the same model, by the numbers of its
    weights, and the same data takes them up, and one with others refuses to. A picture that cannot be read is left out
    and named.

    Args:
        explainer: of the model whose features are kept.
        dataset: the pictures.
        out: the file, .safetensors.
        batch_size: pictures in one pass.
        progress: called with the number of pictures done since the last call, those of an earlier run included.

    Raises:
        VitscopeError: the file cannot be written, or other parts lie in its place.
        TargetError: no picture could be read.
    """
    file = Path(out)
    if file.suffix != ".safetensors":
        raise VitscopeError(f"{file}: a memory bank is a .safetensors file; give a name that ends so")
    parts = file.with_suffix(".parts")
    facts = {
        "model": {**explainer.source, "name": explainer.anatomy.name},
        "preprocessing": explainer.preprocessing.describe(),
        "dataset": dataset.description,
        "pictures": len(dataset),
        "parameters": parameters_of(explainer.anatomy.model),
    }
    _open_parts(parts, facts)
    for start, part in zip(range(0, len(dataset), PART), _parts_of(parts, len(dataset)), strict=True):
        end = min(start + PART, len(dataset))
        if part.exists():
            progress(end - start)
        else:
            _write_part(explainer, dataset, range(start, end), part, batch_size, progress)
    return _join(parts, file, ClassNames(dataset.names), facts)


def check_fits(explainer: Explainer, bank: MemoryBank) -> None:
    """Hold a bank against the model whose pictures shall be compared with it; one that does not say is let pass.

    Raises:
        TargetError: it was built with other weights, or from pictures that were prepared otherwise.
    """
    built = bank.facts.get("parameters")
    if built is not None and built != parameters_of(explainer.anatomy.model):
        raise TargetError(
            f"the memory bank was built with another model than this {explainer.anatomy.name}, or with other weights; "
            "vitscope bank info tells with which, vitscope bank build makes one for this model"
        )
    prepared = bank.facts.get("preprocessing")
    if prepared is not None and prepared != json.loads(json.dumps(explainer.preprocessing.describe())):
        raise TargetError(
            "the memory bank's pictures were prepared otherwise than these would be; give --size and "
            "--crop-pct as for vitscope bank build"
        )


def _parts_of(parts: Path, count: int) -> list[Path]:
    """The files of the parts that `count` pictures make."""
    return [parts / f"{start:09d}.safetensors" for start in range(0, count, PART)]


def _open_parts(parts: Path, facts: Mapping[str, Any]) -> None:
    plan = parts / "plan.json"
    try:
        parts.mkdir(parents=True, exist_ok=True)
        if not plan.exists():
            passing = _passing(plan)
            passing.write_text(json.dumps(facts), encoding="utf-8")
            passing.replace(plan)
        elif parse_json(plan.read_bytes()) != json.loads(json.dumps(facts)):
            raise VitscopeError(
                f"{parts}: holds parts of a bank of another model or other pictures; take the folder away, or choose "
                "another --out"
            )
    except OSError as error:
        raise VitscopeError(f"{parts}: cannot be written ({error.strerror}); choose another --out") from error
    except ValueError as error:
        raise VitscopeError(f"{plan}: is damaged ({error}); take the folder {parts} away") from error


def _passing(file: Path) -> Path:
    """Where a file is written before it is whole, apart from what another process writes."""
    return file.with_name(f"{file.stem}.{os.getpid()}.passing")


def _write_part(
    explainer: Explainer,
    dataset: Labelled,
    which: range,
    part: Path,
    batch_size: int,
    progress: Callable[[int], object],
) -> None:
    features, labels, failed = [], [], {}
    for start in range(which.start, which.stop, batch_size):
        indices = range(start, min(start + batch_size, which.stop))
        ready: list[tuple[int, Batch]] = []
        for picture in (dataset[index] for index in indices):
            try:
                ready.append((picture.label, prepare(picture.picture, explainer.preprocessing)))
            except ImageError as error:
                failed[picture.name] = str(error)
        if ready:
            found = explainer.features(Batch.join([batch for _, batch in ready]))
            features.append(torch.nn.functional.normalize(found.float(), dim=1).half().cpu())
            labels += [label for label, _ in ready]
        progress(len(indices))
    tensors = {"labels": torch.tensor(labels, dtype=torch.int64)}
    if features:
        tensors["features"] = torch.cat(features)
    passing = _passing(part)
    try:
        save_file(tensors, passing, metadata={"failed": json.dumps(failed, ensure_ascii=False)})
        passing.replace(part)
    except (OSError, SafetensorError) as error:
        raise VitscopeError(f"{part}: cannot be written ({error}); free some space and run it again") from error
    finally:
        passing.unlink(missing_ok=True)


def _join(parts: Path, file: Path, names: ClassNames, facts: Mapping[str, Any]) -> Built:
    features, labels, failed = [], [], {}
    for part in _parts_of(parts, facts["pictures"]):
        try:
            found = _read_part(part)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise VitscopeError(f"{part}: is damaged ({error}); delete it and run it again") from error
        failed.update(found[0])
        labels.append(found[1])
        features += found[2]
    if len({one.shape[1] for one in features}) > 1:
        raise VitscopeError(f"{parts}: holds parts of several models; take the folder away")
    if not features:
        raise TargetError(f"none of the {facts['pictures']} pictures could be read; {next(iter(failed.values()))}")
    created = {"created": datetime.now(UTC).isoformat(timespec="seconds")}
    bank = MemoryBank(torch.cat(features), torch.cat(labels), names, {**facts, **created})
    try:
        check_bank(bank.features, bank.labels, list(names.names), dict(bank.facts))
    except ValueError as error:
        raise VitscopeError(f"{parts}: its parts make no bank ({error}); take the folder away") from error
    bank.save(file)
    shutil.rmtree(parts, ignore_errors=True)  # another process may be at the same bank
    return Built(bank, failed)


def _read_part(part: Path) -> tuple[dict[str, str], Tensor, list[Tensor]]:
    """Its failures, labels, and features where there are any; ValueError or KeyError where it is no part."""
    with safe_open(part, framework="pt") as content:
        failed = parse_json((content.metadata() or {})["failed"])
        labels = content.get_tensor("labels")
        features = [content.get_tensor("features")] if "features" in content.keys() else []  # noqa: SIM118  (no mapping)
    count = len(features[0]) if features and features[0].ndim == 2 else 0
    if not isinstance(failed, dict) or labels.dtype != torch.int64 or labels.shape != (count,):
        raise ValueError("its tensors do not belong together")
    if any(one.ndim != 2 or one.dtype != torch.float16 for one in features):
        raise ValueError("its features are no table of float16")
    return failed, labels, features
