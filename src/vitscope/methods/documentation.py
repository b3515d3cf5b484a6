"""What a method's docstring says: its text with formulas apart, and its options one by one."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

from vitscope.errors import MethodError
from vitscope.methods.base import Facts
from vitscope.methods.registry import method_called, options_of

_FORMULA = re.compile(r"[^\s=]+(\[[^]]*\])?\s+(=|<-)\s")
_OPTION = re.compile(r"(\w+): (.*)")
_SECTION = re.compile(r"^(Attributes|Raises):\n", flags=re.MULTILINE)

Paragraphs = tuple[tuple[bool, str], ...]
"""Of a text: whether each paragraph is a formula, and its lines."""


@dataclass(frozen=True)
class Option:
    """One of a method's options: what it may be, its default, and what the docstring says of it."""

    name: str
    takes: str
    default: Any
    text: str


@dataclass(frozen=True)
class Documentation:
    """A method as its file tells it.

    Attributes:
        facts: what is known of it.
        text: the docstring whole, indentation taken off; after it what the file says of all its methods, if anything.
        paragraphs: the docstring without its options.
        shared: what the file says of all its methods, where that is more than a line.
        options: in the order of the method's fields.
        raises: error -> when.
    """

    facts: Facts
    text: str
    paragraphs: Paragraphs
    shared: Paragraphs
    options: tuple[Option, ...]
    raises: dict[str, str]


def document(name: str) -> Documentation:
    """The documentation of the method of this name.

    Raises:
        MethodError: an unknown name, or a docstring that tells of options that there are not.
    """
    method = method_called(name)
    whole = inspect.getdoc(method) or ""
    text, *parts = _SECTION.split(whole)
    told = {head: _told(listed) for head, listed in zip(parts[::2], parts[1::2], strict=True)}
    described = told.get("Attributes", {})
    taken = options_of(name)
    if lost := described.keys() - taken.keys():
        raise MethodError(f"the docstring of {name} tells of {', '.join(sorted(lost))}; options are its fields alone")
    options = tuple(Option(key, takes, default, described.get(key, "")) for key, (takes, default) in taken.items())
    shared = _paragraphs(inspect.getdoc(inspect.getmodule(method)) or "")
    if len(shared) == 1:
        shared = ()
    whole = "\n\n".join([whole, *(lines for _, lines in shared)])
    return Documentation(method.facts, whole, _paragraphs(text), shared, options, told.get("Raises", {}))


def _paragraphs(text: str) -> Paragraphs:
    """Formulas are what is set in, and paragraphs of which every line begins as an equation does."""
    found = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = block.splitlines()
        set_in = all(line.startswith(" " * 4) for line in lines)
        formula = set_in or all(_FORMULA.match(line) for line in lines)
        found.append((formula, inspect.cleandoc(f"\n{block}") if set_in else block))
    return tuple(found)


def _told(listed: str) -> dict[str, str]:
    """ "    name: text, on further lines further in" -> name -> text, on one line."""
    told: dict[str, str] = {}
    for line in inspect.cleandoc(f"\n{listed}").splitlines():
        entry = _OPTION.match(line)
        if entry:
            told[entry[1]] = entry[2]
        elif told and line.strip():
            told[next(reversed(told))] += f" {line.strip()}"
    return told
