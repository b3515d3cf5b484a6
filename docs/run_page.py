"""Runs what a page shows, block by block: python docs/run_page.py docs/tutorial.md [--in FOLDER].

```python is run, ```pycon is run and its output compared, ```sh is run by vitscope's command line (`exit=2`: and
must end so). All share names and a folder. ```py and commands that are set in are shown alone.
"""

from __future__ import annotations

import argparse
import contextlib
import doctest
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from vitscope.cli import main as command_line

BLOCK = re.compile(r"^```(python|pycon|sh)\b([^\n]*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def run_page(
    page: Path,
    instead: Mapping[str, str] | None = None,
    wanted: Callable[[str], bool] = lambda code: True,
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run a page's blocks in the current folder, and give the names that they leave.

    Args:
        page: a Markdown file.
        instead: what stands in a block -> what is run in its place, such as a model that must not be fetched.
        wanted: which blocks are run.
        given: names that the page takes for known.

    Raises:
        AssertionError: an output or an exit code is another than the page's.
    """
    text = page.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": page.stem, **(given or {})}
    for found in BLOCK.finditer(text):
        kind, options, code = found.groups()
        for old, new in (instead or {}).items():
            code = code.replace(old, new)
        if not wanted(code):
            continue
        line = text.count("\n", 0, found.start()) + 1
        if kind == "python":
            exec(compile("\n" * line + code, str(page), "exec"), names)
        elif kind == "pycon":
            _compare(code, names, page, line)
        else:
            _command(code, options, f"{page}:{line}")
    return names


def _compare(code: str, names: dict[str, Any], page: Path, line: int) -> None:
    example = doctest.DocTestParser().get_doctest(code, names, page.name, str(page), line)
    example.globs = names  # not a copy: later blocks see what this one sets
    said = io.StringIO()
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.write, clear_globs=False)
    assert not result.failed, said.getvalue()


def _command(code: str, options: str, where: str) -> None:
    asked = re.search(r"exit=(\d)", options)
    wanted = int(asked[1]) if asked else 0
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        assert words[0] == "vitscope", f"{where}: {line}"
        assert _run(words) == wanted, f"{where}: {line}"


def _run(words: list[str]) -> int:
    """The exit code of a command, run in this process, where torch is imported already."""
    with mock.patch.object(sys, "argv", words):
        try:
            command_line()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--in", dest="folder", type=Path, help="where to run it; otherwise in a folder that is deleted")
    asked = parser.parse_args()
    page = asked.page.resolve()
    with contextlib.ExitStack() as stack:
        folder = asked.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        stack.callback(os.chdir, Path.cwd())
        os.chdir(folder)
        run_page(page)
    print(f"{asked.page}: all blocks run")


if __name__ == "__main__":
    main()
