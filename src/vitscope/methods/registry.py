"""The methods by name, and the reading of "name:option=value,option=value"."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from vitscope.errors import MethodError, nearest
from vitscope.methods.base import Facts, Family, Method

_METHODS: dict[str, type[Method]] = {}
M = TypeVar("M", bound=type)

Wanted = str | Method | Sequence[str | Method] | Mapping[str, Method]
"""The forms in which methods are asked for."""


def register_method(method: M) -> M:
    """Register a method class under its `facts.name`; used as a decorator above `@dataclass(frozen=True)`."""
    name = method.facts.name  # type: ignore[attr-defined]
    if name in _METHODS:
        raise ValueError(f"a method called {name} is registered already")
    _METHODS[name] = method
    return method


def list_methods() -> list[Facts]:
    """The facts of every method, family by family, the oldest first."""
    families = get_args(Family)
    facts = [method.facts for method in _METHODS.values()]
    return sorted(facts, key=lambda one: (families.index(one.family), one.year, one.name))


def options_of(name: str) -> dict[str, tuple[str, Any]]:
    """A method's options: name -> (what it may be, its default)."""
    method = _METHODS[name]
    hints = get_type_hints(method)
    return {f.name: (choices_of(hints[f.name]), f.default) for f in dataclasses.fields(method)}  # type: ignore[arg-type]


def as_methods(wanted: Wanted) -> dict[str, Method]:
    """The methods that a user's words mean, by the label under which each result is kept.

    Args:
        wanted: "daam", "agcam:scores=softmax", a Method, "daam,agcam" or a sequence of these; or label -> Method.

    Raises:
        MethodError: an unknown name or option, or one label twice.
    """
    if isinstance(wanted, Mapping):
        return dict(wanted)
    entries: Sequence[str | Method] = [wanted] if not isinstance(wanted, Sequence) else wanted
    if isinstance(wanted, str):
        entries = split_methods(wanted)
    if not entries:
        raise MethodError(f"no method is named; known: {', '.join(sorted(_METHODS))}")
    found: dict[str, Method] = {}
    for entry in entries:
        label, method = (entry.strip(), as_method(entry)) if isinstance(entry, str) else (_label(entry), entry)
        if label in found:
            raise MethodError(f"{label} is named twice; name it once, or with different options")
        found[label] = method
    return found


def split_methods(text: str) -> list[str]:
    """Split at the commas that begin a new method, so that options keep theirs: "a:x=1,y=2,b" -> a:x=1,y=2 and b."""
    parts: list[str] = []
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        if parts and "=" in piece and ":" not in piece:
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
    return parts


def as_method(text: str) -> Method:
    """Build one method from "name" or "name:option=value,option=value"."""
    name, _, options = text.strip().partition(":")
    if name not in _METHODS:
        hint = nearest(name, _METHODS) or f"; known: {', '.join(sorted(_METHODS))}"
        raise MethodError(f"unknown method '{name}'{hint}")
    method = _METHODS[name]
    hints = get_type_hints(method)
    fields = {field.name for field in dataclasses.fields(method)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in fields:
            offer = f"it takes {', '.join(sorted(fields))}" if fields else "it takes no options"
            raise MethodError(f"{name} has no option '{key}'; {offer}")
        values[key] = read_option(value, hints[key], f"{name}:{key}")
    built: Method = method(**values)
    return built


def _label(method: Method) -> str:
    """ "name", or "name:option=value" for the options that differ from their defaults."""
    fields = dataclasses.fields(method)  # type: ignore[arg-type]
    changed = [f"{f.name}={getattr(method, f.name)}" for f in fields if getattr(method, f.name) != f.default]
    return method.facts.name + (":" + ",".join(changed) if changed else "")


def read_option(text: str, hint: Any, option: str) -> Any:
    """Read an option's value by its type: a Literal, int, float, bool, or one of these or None."""
    kinds = get_args(hint) if get_origin(hint) is types.UnionType else (hint,)
    for kind in kinds:
        if kind is type(None) and text.lower() == "none":
            return None
        if get_origin(kind) is Literal and text in get_args(kind):
            return text
        if kind is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    raise MethodError(f"{option}={text} is not understood; it takes {choices_of(hint)}")


def choices_of(hint: Any) -> str:
    """What an option of this type may be, in words."""
    if get_origin(hint) is types.UnionType:
        return " or ".join(choices_of(kind) for kind in get_args(hint))
    if get_origin(hint) is Literal:
        return " | ".join(get_args(hint))
    return {bool: "true | false", int: "a whole number", float: "a number", type(None): "none"}.get(hint, str(hint))
