"""The page of pains and the tests name the same ones."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "pains.md"


def test_the_page_and_the_tests_name_the_same_pains():
    entries = re.split(r"^(?=\d+\. )", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    wanted = []
    for entry in entries:
        number, title, answer = re.match(r"(\d+)\. \*\*(.+?)\.\*\* (.+)", " ".join(entry.split())).groups()
        wanted.append(f"test_{int(number):02d}_{re.sub(r'[^a-z0-9]+', '_', title.lower()).strip('_')}")
        assert re.search(r"[.] [(](.*[a-z].*)[)]$", answer), f"{title}: an answer, and where it is described"
    assert len(wanted) == 22
    tests = [
        node.name
        for file in sorted(HERE.glob("test_*.py"))
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and re.match(r"test_\d\d_", node.name)
    ]
    assert sorted(name for name in tests if not re.match(r"test_\d\d_(also|and)_", name)) == sorted(wanted)
