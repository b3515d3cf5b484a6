"""The data sets by name, and the reading of "name:option=value,option=value"."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import types
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from vitscope.datasets.record import Dataset, DatasetInfo
from vitscope.errors import DatasetError, nearest
from vitscope.parse import as_unicode, is_unicode


class Reader(Protocol):
    """A frozen dataclass whose fields are the data set's options."""

    info: ClassVar[DatasetInfo]

    def open(self, root: Path, /) -> Dataset:
        """The data set in this folder.

        Raises:
            DatasetError: the folder is laid out otherwise.
        """
        ...


_READERS: dict[str, type[Reader]] = {}
R = TypeVar("R", bound=type)


def register_dataset(reader: R) -> R:
    """Register a reader under its `info.name`; used as a decorator above `@dataclass(frozen=True)`."""
    name = reader.info.name  # type: ignore[attr-defined]
    if name in _READERS:
        raise ValueError(f"a data set called {name} is registered already")
    _READERS[name] = reader
    return reader


def list_datasets() -> list[DatasetInfo]:
    """What is known of every data set, by name."""
    return [_READERS[name].info for name in sorted(_READERS)]


def dataset_options(name: str) -> dict[str, tuple[str, Any]]:
    """A data set's options: name -> (what it may be, its default)."""
    reader = _READERS[name]
    hints = get_type_hints(reader)
    return {f.name: (_choices(hints[f.name]), f.default) for f in dataclasses.fields(reader)}  # type: ignore[arg-type]


def as_reader(text: str) -> Reader:
    """Build one reader from "name" or "name:option=value,option=value".

    Raises:
        DatasetError: an unknown name or option, or a value that the option does not take.
    """
    name, _, options = text.strip().partition(":")
    if name not in _READERS:
        hint = nearest(name, _READERS) or f"; there is {', '.join(sorted(_READERS))}"
        raise DatasetError(f"no data set is called '{name}'{hint}")
    reader = _READERS[name]
    hints = get_type_hints(reader)
    fields = {field.name for field in dataclasses.fields(reader)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in fields:
            offer = f"it takes {', '.join(sorted(fields))}" if fields else "it takes no options"
            raise DatasetError(f"{name} has no option '{key}'; {offer}")
        values[key] = _value(value, hints[key], f"{name}:{key}")
    return reader(**values)


def open_dataset(
    source: str | Reader,
    root: str | os.PathLike[str] | None = None,
    *,
    limit: int | None = None,
    seed: int | None = None,
) -> Dataset:
    """Open a data set; no picture is read.

    Args:
        source: "voc", "voc:split=val,classes_per_image=1", or a reader such as `datasets.VOC(split="val")`.
        root: its folder.
        limit: at most so many items: the first, or with a `seed` a random choice (`Dataset.subset`).
        seed: of the order; None keeps the data set's own.

    Raises:
        DatasetError: unknown, an option that it does not take, no root or one too many, or a folder that is laid out
            otherwise.
    """
    reader = as_reader(source) if isinstance(source, str) else source
    info = reader.info
    _check_options(reader)
    if root is None and info.needs_root:
        raise DatasetError(f"{info.name} needs a root: {info.layout}")
    if root is not None and not info.needs_root:
        raise DatasetError(f"{info.name} has no folder; leave the root {root} out")
    folder = Path(root or ".")
    if info.needs_root and not folder.exists():
        raise DatasetError(f"{folder}: no such folder; expected {info.layout}")
    whole = reader.open(folder)
    if not len(whole):
        raise DatasetError(f"{folder} holds nothing to read as {info.name}; expected {info.layout}")
    for name in (str(folder), *whole.names, *whole.ids):
        if not is_unicode(name):
            raise DatasetError(f"{as_unicode(str(folder))}: '{as_unicode(name)}' is not UTF-8; rename it")
    chosen = whole.subset(limit, seed)
    provenance = {
        "dataset": info.name,
        "root": str(folder) if info.needs_root else None,
        "options": dataclasses.asdict(reader),  # type: ignore[call-overload]
        "limit": limit,
        "seed": seed,
        "count": len(chosen),
        "of": len(whole),
        "ids": hashlib.sha256("\n".join(chosen.ids).encode()).hexdigest(),
    }
    return dataclasses.replace(chosen, provenance=provenance)


def _check_options(reader: Reader) -> None:
    """Hold the values of Literal options against what they may be."""
    hints = get_type_hints(type(reader))
    for option in dataclasses.fields(reader):  # type: ignore[arg-type]
        value, hint = getattr(reader, option.name), hints[option.name]
        known = [choice for kind in _kinds(hint) if get_origin(kind) is Literal for choice in get_args(kind)]
        allowed = value in known or (value is None and type(None) in _kinds(hint))
        if known and not allowed:
            raise DatasetError(f"{reader.info.name}:{option.name}={value} is not understood; it takes {_choices(hint)}")


def _value(text: str, hint: Any, option: str) -> Any:
    """Read an option's value by its type: a Literal, int, float, bool, text, or one of these or None."""
    for kind in sorted(_kinds(hint), key=lambda kind: kind is str):
        if kind is type(None) and text.lower() == "none":
            return None
        if get_origin(kind) is Literal:
            for choice in get_args(kind):
                if text == str(choice):
                    return choice
        if kind is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
        if kind is str and text:
            return text
    raise DatasetError(f"{option}={text} is not understood; it takes {_choices(hint)}")


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types of a union; `Literal[...] | None` is typing's own Union."""
    return get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,)


def _choices(hint: Any) -> str:
    if len(kinds := _kinds(hint)) > 1:
        return " or ".join(map(_choices, kinds))
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    words = {bool: "true | false", int: "a whole number", float: "a number", str: "text", type(None): "none"}
    return words.get(hint, str(hint))
