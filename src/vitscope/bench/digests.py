"""SHA-256 of what a run rests on and only names: files, annotations, targets."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from vitscope.datasets import Dataset, dataset_options
from vitscope.datasets.classes import OWN
from vitscope.errors import DatasetError
from vitscope.provenance import bytes_of, parameters_of
from vitscope.targets import MemoryBank, Target


def files_of(name: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Of the files that a data set's options name (classes=, synsets=, categories=): option -> digest of the content.

    Args:
        name: of the data set.
        options: its options; those that are a text and name a file are looked at.

    Raises:
        DatasetError: a file cannot be read.
    """
    kinds = dataset_options(name)
    found = {}
    for key, value in options.items():
        if not isinstance(value, str) or value == OWN or "text" not in kinds[key][0].split(" or "):
            continue
        if (file := Path(value)).is_file():
            try:
                found[key] = hashlib.sha256(file.read_bytes()).hexdigest()
            except OSError as error:
                raise DatasetError(f"{file}: cannot be read ({error.strerror}); make it readable") from error
    return found


def annotations_of(dataset: Dataset) -> str:
    """Of what the data set's files say of every item: its name, labels and boxes, and whether it has masks.

    No picture is read and no mask: what is painted in these is not covered.
    """
    digest = hashlib.sha256()
    for name in dataset.ids:
        try:
            item = dataset.read(name)
        except DatasetError:  # an annotation that is missing or damaged is told where the item is measured
            told = None
        else:
            boxes = [[box.edges, box.label, box.aside] for box in item.boxes or ()]
            told = [item.labels, boxes, item.load_masks is not None]
        digest.update(json.dumps([name, told], separators=(",", ":"), default=float).encode() + b"\n")
    return digest.hexdigest()


def target_of(target: Target) -> str:
    """Of what is explained: the kind of target and all that it is made of, to the bit.

    Tensors and a memory bank count by their content. A function counts by its own code and what it closes over; what it
    reads or calls of its module is not looked into.
    """
    digest = hashlib.sha256()
    for piece in _pieces(target, ()):
        digest.update(len(piece).to_bytes(8, "big"))
        digest.update(piece)
    return digest.hexdigest()


def _pieces(value: Any, within: tuple[Any, ...]) -> Iterator[bytes | memoryview]:
    """A value piece by piece; `within` are the objects around it, which may hold each other in a ring."""
    if isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield bytes_of(value)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{value.dtype} {value.shape}".encode()
        yield value.tobytes()
    elif isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
        yield value.__name__.encode()
    elif isinstance(value, frozenset | set):
        yield from _pieces(sorted(map(repr, value)), within)
    elif isinstance(value, list | tuple):
        yield f"{len(value)} parts".encode()
        for part in value:
            yield from _pieces(part, within)
    elif isinstance(value, Mapping):
        yield from _pieces(list(value.items()), within)
    elif any(value is one for one in within):
        yield b"a ring"
    elif (parts := _parts_of(value)) is not None:
        yield type(value).__qualname__.encode()
        yield from _pieces(parts, (*within, value))
    else:
        yield repr(value).encode()


def _parts_of(value: Any) -> list[Any] | None:
    """What an object is made of; None of a plain value."""
    if isinstance(value, MemoryBank):  # its facts tell where it was built
        return [value.features, value.labels]
    if isinstance(value, nn.Module):
        return [parameters_of(value)]
    if isinstance(value, types.FunctionType):
        return [value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__, value.__closure__]
    if isinstance(value, types.CellType):
        try:
            return [value.cell_contents]
        except ValueError:  # nothing is in it yet
            return []
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, types.CodeType):
        return [value.co_code, value.co_names, value.co_consts]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if is_dataclass(value):
        return [(one.name, getattr(value, one.name)) for one in fields(value)]
    return sorted(vars(value).items()) if hasattr(value, "__dict__") else None
