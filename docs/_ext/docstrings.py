"""Docstrings are prose with Google's sections: set as they are read, formulas apart, links to public names alone."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from functools import cache

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from vitscope.methods.documentation import _paragraphs

PUBLIC = (
    "methods",
    "metrics",
    "targets",
    "datasets",
    "models",
    "bench",
    "view",
    "report",
    "serve",
    "images",
    "bridges",
    "errors",
)
"""The public modules beside `vitscope` itself: a page of the reference each."""

FIELDS = {"Args": "param", "Attributes": "", "Raises": "raises"}
"""Section -> the field that each of its entries becomes; those of attributes are a list."""

_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Source|Example):(.*)")
_ENTRY = re.compile(r"(\*{0,2}\w+(?:, \w+)*): (.*)")


def as_read(text: str) -> str:
    """`text` with the characters escaped that reStructuredText gives a meaning, but in `code`."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"(?<=\w)_(?!\w)", r"\\_", re.sub(r"([*|])", r"\\\1", part)) for part in parts[::2]]
    return "".join(parts)


def prose(app: Sphinx, what: str, name: str, of: object, options: object, lines: list[str]) -> None:
    """Rewrite a docstring in place."""
    lines[:] = [line for formula, text in _paragraphs("\n".join(lines)) for line in _set(formula, text)]


def _set(formula: bool, paragraph: str) -> Iterator[str]:
    lines = paragraph.splitlines()
    section = _SECTION.fullmatch(lines[0])
    if formula:
        yield from ["::", "", *(f"    {line}" for line in lines)]
    elif section and section[1] == "Example":
        yield from [".. rubric:: Example", "", *(line.removeprefix("    ") for line in lines[1:])]
    elif section and section[1] in FIELDS:
        yield from _fields(FIELDS[section[1]], lines[1:])
    elif section:
        text = " ".join([section[2], *lines[1:]])
        yield f":{section[1].lower()}: {as_read(' '.join(text.split()))}"
    else:
        yield from map(as_read, lines)
    yield ""


def _fields(kind: str, lines: list[str]) -> Iterator[str]:
    """ "    name, name: text, on further lines further in" -> a field a name."""
    told: list[list[str]] = []
    for line in lines:
        entry = _ENTRY.fullmatch(line.strip()) if not line.startswith(" " * 8) else None
        if entry:
            told.append([entry[1], entry[2]])
        elif told:
            told[-1][1] += f" {line.strip()}"
        else:  # "as a call."
            told.append(["", line.strip()])
    if not kind:
        yield from [".. rubric:: Attributes", ""]
    for names, text in told:
        for name in names.split(", "):
            field = f":{kind} {name}:" if name else f":{kind}:"
            yield f"{field} {as_read(text)}" if kind else f"- `{name}`: {as_read(text)}"


def public_names() -> dict[str, list[str]]:
    """Where a thing is defined -> the names under which the reference may have it."""
    found: dict[str, list[str]] = {}
    for module in ("vitscope", *(f"vitscope.{part}" for part in PUBLIC)):
        there = importlib.import_module(module)
        for name in getattr(there, "__all__", dir(there)):
            one = getattr(there, name)
            if str(getattr(one, "__module__", "")).startswith("vitscope"):
                where = f"{one.__module__}.{getattr(one, '__qualname__', name)}"
                found.setdefault(where, []).append(f"{module}.{name}")
    return found


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.Node | None:
    """A link to what is documented under its public name; the name alone where it is of the inside."""
    if node.get("refdomain") != "py":
        return None
    target = str(node["reftarget"])
    for name in _meant(target):
        for kind in (node["reftype"], "obj"):
            found = env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, kind, name, node, content)
            if found is not None:
                return found
    return content if _exists(target) else None


@cache
def _meant(target: str) -> tuple[str, ...]:
    """The public names of what a name means: the place where it is defined, or what one thing alone is called."""
    public = public_names()
    if target in public:
        return tuple(public[target])
    named = [names for where, names in public.items() if where.rpartition(".")[2] == target]
    return tuple(named[0]) if len(named) == 1 else ()


@cache
def _exists(target: str) -> bool:
    """Whether vitscope has such a thing."""
    module, _, name = target.rpartition(".")
    if not module.startswith("vitscope"):
        return False
    try:
        return hasattr(importlib.import_module(module), name)
    except ImportError:
        return _exists(module)


def setup(app: Sphinx) -> dict[str, bool]:
    """For Sphinx."""
    app.connect("autodoc-process-docstring", prose)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
