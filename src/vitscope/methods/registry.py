"""The methods by name, alone or in groups, and the reading of "name:option=value,option=value"."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from vitscope.defaults import FAMILIES, GROUPS
from vitscope.errors import MethodError, nearest
from vitscope.methods.base import Facts, Method
from vitscope.methods.samples import with_budget
from vitscope.options import check_options

_METHODS: dict[str, type[Method]] = {}
M = TypeVar("M", bound=type)

ALL = "all"
_FAMILY = "family"

Wanted = str | Method | Sequence[str | Method] | Mapping[str, Method]
"""The forms in which methods are asked for."""


@dataclass(frozen=True)
class Chosen:
    """The methods that a user's words mean.

    Attributes:
        methods: by the label under which each result is kept, in the order asked for.
        grouped: the labels that only a group brought in; where one does not apply, it is left out.
    """

    methods: Mapping[str, Method]
    grouped: frozenset[str] = frozenset()

    def within(self, max_forwards: int | None) -> Chosen:
        """The same, at no more than so many forwards a picture where a method has that option and it was not given.

        Raises:
            MethodError: a method needs more.
        """
        return dataclasses.replace(self, methods=with_budget(self.methods, max_forwards))

    def only(self, labels: Collection[str]) -> Chosen:
        """Those of these labels."""
        return Chosen({label: one for label, one in self.methods.items() if label in labels}, self.grouped & {*labels})


def register_method(method: M) -> M:
    """Register a method class under its `facts.name`; used as a decorator above `@dataclass(frozen=True)`."""
    name = method.facts.name  # type: ignore[attr-defined]
    if name in _METHODS:
        raise ValueError(f"a method called {name} is registered already")
    if name in (ALL, _FAMILY):
        raise ValueError(f"{name} names groups of methods; give the method another name")
    _METHODS[name] = method
    return method


def list_methods() -> list[Facts]:
    """The facts of every method, family by family, the oldest first."""
    families = list(FAMILIES)
    facts = [method.facts for method in _METHODS.values()]
    return sorted(facts, key=lambda one: (families.index(one.family), one.year, one.name))


def method_called(name: str) -> type[Method]:
    """The method's class.

    Raises:
        MethodError: an unknown name, or a group's.
    """
    if name not in _METHODS:
        if _group(name) is not None:
            raise MethodError(f"{name} names a group of methods; name one method")
        known = f"; known: {', '.join(sorted(_METHODS))}; or {GROUPS}"
        raise MethodError(f"unknown method '{name}'{nearest(name, (*_METHODS, *FAMILIES, ALL)) or known}")
    return _METHODS[name]


def options_of(name: str) -> dict[str, tuple[str, Any]]:
    """A method's options: name -> (what it may be, its default)."""
    method = _METHODS[name]
    hints = get_type_hints(method)
    return {f.name: (choices_of(hints[f.name]), f.default) for f in dataclasses.fields(method)}  # type: ignore[arg-type]


def family_of(label: str) -> str:
    """The family of the method that a label names, or "" where the label is the user's own."""
    method = _METHODS.get(label.partition(":")[0])
    return method.facts.family if method else ""


def as_methods(wanted: Wanted) -> dict[str, Method]:
    """The methods that a user's words mean, by the label under which each result is kept; see `choose`.

    Example:
        >>> as_methods("cdam,agcam:scores=softmax")
        {'cdam': CDAM(), 'agcam:scores=softmax': AGCAM(path='skip', scores='softmax', heads='sum', layers='sum')}
    """
    return dict(choose(wanted).methods)


def choose(wanted: Wanted) -> Chosen:
    """The methods that a user's words mean, and which of them only a group names.

    Args:
        wanted: "daam", "agcam:scores=softmax", a Method, "daam,agcam" or a sequence of these; or label -> Method. Among
            the words, "all" stands for every method and a family's name ("cam") for its methods; "family:attention"
            for those of a family whose name is a method's too. What a group names again is not asked for twice.

    Raises:
        MethodError: an unknown name or option, an empty family, one label twice, or none at all.
    """
    if isinstance(wanted, Mapping) and wanted:
        for label, method in wanted.items():
            _check(method, f"{label!r}: ")
        return Chosen(dict(wanted))
    entries: Sequence[str | Method] = [wanted] if not isinstance(wanted, Sequence | Mapping) else list(wanted)
    if isinstance(wanted, str):
        entries = split_methods(wanted)
    if not entries:
        raise MethodError(f"no method is named; known: {', '.join(sorted(_METHODS))}")
    found: dict[str, Method] = {}
    named: set[str] = set()
    for entry in entries:
        group = _group(entry.strip()) if isinstance(entry, str) else None
        if group is not None:
            found |= {name: _METHODS[name]() for name in group if name not in found}
            continue
        label, method = (entry.strip(), as_method(entry)) if isinstance(entry, str) else (_label(entry), entry)
        if label in named:
            raise MethodError(f"{label} is named twice; name it once, or with different options")
        named.add(label)
        found[label] = method
    return Chosen(found, frozenset(found.keys() - named))


def _group(word: str) -> list[str] | None:
    """The names of a group's methods; None where the word names no group."""
    listed = list_methods()
    if word == ALL:
        return [facts.name for facts in listed]
    before, colon, family = word.partition(":")
    if not colon or before != _FAMILY:
        family = word
        if word in _METHODS or word not in FAMILIES:
            return None
    if family not in FAMILIES:
        hint = nearest(family, FAMILIES) or f"; known: {', '.join(FAMILIES)}"
        raise MethodError(f"unknown family '{family}'{hint}")
    names = [facts.name for facts in listed if facts.family == family]
    if not names:
        full = [name for name in FAMILIES if any(facts.family == name for facts in listed)]
        raise MethodError(f"the family {family} has no methods; use one of {', '.join(full)}")
    return names


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
    """Build one method from "name" or "name:option=value,option=value".

    Raises:
        MethodError: an unknown method or option, a group, or several methods.
    """
    word = text.strip()
    name, _, options = word.partition(":")
    if "," in name:
        raise MethodError(f"'{word}' names several methods; give one")
    method = method_called(word if name == _FAMILY else name)
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
    _check(method)
    fields = dataclasses.fields(method)  # type: ignore[arg-type]
    changed = [f"{f.name}={getattr(method, f.name)}" for f in fields if getattr(method, f.name) != f.default]
    return method.facts.name + (":" + ",".join(changed) if changed else "")


def _check(method: Any, where: str = "") -> None:
    """Raise MethodError where it is no method's instance, or one with an option that it does not have."""
    if isinstance(method, type) or not (dataclasses.is_dataclass(method) and hasattr(method, "facts")):
        found = f"the class {method.__name__}" if isinstance(method, type) else f"{type(method).__name__}"
        offer = "an instance such as AGCAM()"
        offer = offer if where else f"a name such as 'agcam', or {offer}"
        raise MethodError(f"{where}{found} is no method; give {offer}")
    check_options(method, MethodError, method.facts.name)


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
                value = kind(text)
            except ValueError:
                continue
            if value == value:  # nan is no number, and every comparison would let it pass
                return value
    raise MethodError(f"{option}={text} is not understood; it takes {choices_of(hint)}")


def choices_of(hint: Any) -> str:
    """What an option of this type may be, in words."""
    if get_origin(hint) is types.UnionType:
        return " or ".join(choices_of(kind) for kind in get_args(hint))
    if get_origin(hint) is Literal:
        return " | ".join(get_args(hint))
    return {bool: "true | false", int: "a whole number", float: "a number", type(None): "none"}.get(hint, str(hint))
