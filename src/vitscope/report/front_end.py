"""The page's style and scripts, joined into one text each.

A script is written as modules with `import { a, b } from "./name.js"` and `export`, which is how it is read and
checked. Here each becomes a function that gives what it exports, after those that it imports; more of the language's
module syntax is not used.
"""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable

FRONT = files("vitscope.report") / "front"

_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./([\w-]+)\.js";$', flags=re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const) (\w+))", flags=re.MULTILINE)


def script(entry: str, *folders: Traversable) -> str:
    """The modules that `entry` needs, and itself, as one script.

    Args:
        entry: a module's name, without its ending.
        folders: where modules lie, the first that has one; this package's own come last.
    """
    return f'"use strict";\n(() => {{\n{modules(entry, *folders)}}})();\n'


def modules(entry: str, *folders: Traversable) -> str:
    """The same, open: it leaves what each module exports in `modules[name]`."""
    joined: dict[str, str] = {}
    _join(entry, (*folders, FRONT), joined)
    return "const modules = {};\n" + "\n".join(joined.values())


def style(*others: Traversable) -> str:
    """This package's style, then others'."""
    return "\n".join(one.read_text(encoding="utf-8") for one in (FRONT / "style.css", *others))


def _join(name: str, folders: tuple[Traversable, ...], joined: dict[str, str]) -> None:
    if name in joined:
        return
    source = next(folder / f"{name}.js" for folder in folders if (folder / f"{name}.js").is_file())
    text = source.read_text(encoding="utf-8")
    for _, needed in _IMPORT.findall(text):
        _join(needed, folders, joined)
    exported = ", ".join(_EXPORT.findall(text))
    body = _EXPORT.sub("", _IMPORT.sub(r"const \1 = modules['\2'];", text))
    joined[name] = f"modules['{name}'] = (() => {{\n{body}return {{ {exported} }};\n}})();\n"
