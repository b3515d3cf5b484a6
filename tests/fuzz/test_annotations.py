"""Broken annotations: read, or refused in one line."""

from __future__ import annotations

import pytest

from tests.fuzz.held import FEW, MANY, holds
from vitscope import VitscopeError
from vitscope.datasets import ClassMap
from vitscope.errors import LONGEST, DatasetError
from vitscope.targets import ClassNames


@pytest.mark.parametrize("cases", [FEW, MANY])
def test_broken_annotations_are_read_or_refused_in_one_line(cases, tmp_path):
    counts = holds("annotations", cases, tmp_path)
    assert min(counts.values()) > cases / 10


def test_an_index_of_thousands_of_digits_is_no_row(tmp_path):
    (tmp_path / "map.txt").write_text(f"cat,{'9' * 5000}\n")
    with pytest.raises(DatasetError, match=r"line 1: .* … .*; mend it") as caught:
        ClassMap.of(("cat",), str(tmp_path / "map.txt"))
    assert len(str(caught.value)) <= LONGEST


@pytest.mark.parametrize("text", ["[" * 100_000, "{}x", '{"1": 2}', "\ufeff"])
def test_json_that_is_none_is_refused(text, tmp_path):
    (tmp_path / "l.json").write_text(text)
    for read in (lambda file: ClassNames.read(file), lambda file: ClassMap.of(("cat",), str(file))):
        with pytest.raises(VitscopeError, match=r"l\.json"):
            read(tmp_path / "l.json")


def test_an_error_is_one_line_whatever_it_quotes():
    error = VitscopeError("a\nb\x1b[31mc\u2028d\u202ee\ud800 ü 猫  x")
    assert str(error) == "a b [31mc d e  ü 猫  x"
    assert len(str(VitscopeError("x" * 10_000))) == LONGEST
