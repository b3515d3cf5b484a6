"""The texts that the page of troubles is sorted by are texts that vitscope says."""

from __future__ import annotations

import ast
import functools
import re

import pytest

from tests.test_docs import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
WINDOW = 3
"""Words in a row that are compared."""


@functools.cache
def said() -> str:
    """The constant parts of all texts in the source, a line each: between the fields, where there are any."""
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(" ".join(node.value.replace("%%", "%").split()))
    return "\n".join(sorted(found))


def share_said(text: str) -> float:
    """The share of a text's words that stand in the source among the same neighbours; what a field gave does not."""
    known = total = 0
    for piece in text.split("…"):
        words = re.sub(r"\([^)]*\)", " ", piece).split()
        if len(words) < WINDOW:
            continue
        covered = [False] * len(words)
        for start in range(len(words) - WINDOW + 1):
            if " ".join(words[start : start + WINDOW]) in said():
                covered[start : start + WINDOW] = [True] * WINDOW
        known, total = known + sum(covered), total + len(words)
    return known / total if total else 1.0


def entries() -> list[str]:
    """The texts, of which each has a line of the page."""
    return re.findall(r"^\*\*(.+?)\*\*(?: \(a warning in the log\))?\\$", PAGE.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("text", entries())
def test_the_text_of_an_entry_is_in_the_source(text):
    assert share_said(text) >= 0.5


def test_other_texts_are_not():
    assert share_said("the attention of … was never seen: it takes a core that torch hides") < 0.5
    assert share_said("floating point arrays are unclear; hand over eight-bit ones") < 0.5
    assert share_said("serve wants fastapi; install vitscope's web extra") < 0.5


def test_every_entry_is_found():
    assert len(entries()) > 60
    assert len(entries()) == len(set(entries()))
    assert len(entries()) == sum(line.startswith("**") for line in PAGE.read_text().splitlines())
