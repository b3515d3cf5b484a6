"""Broken memory banks: usable, or refused in one line."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tools.fuzz.subjects.banks import FACTS, use, valid_bank, valid_part

from tests.fuzz.held import FEW, MANY, holds, line_of
from vitscope import VitscopeError
from vitscope.bank import _join, _open_parts
from vitscope.targets import ClassNames, MemoryBank


@pytest.mark.parametrize("cases", [FEW, MANY])
def test_broken_banks_are_used_or_refused_in_one_line(cases, tmp_path):
    holds("banks", cases, tmp_path)


def test_the_fuzzers_bank_is_one_before_it_is_broken(tmp_path):
    (tmp_path / "b.safetensors").write_bytes(valid_bank())
    use(MemoryBank.load(tmp_path / "b.safetensors"))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 6), max_size=3),
    st.lists(st.integers(0, 6), max_size=2),
    st.sampled_from([torch.float16, torch.float32, torch.int64, torch.bool, torch.complex64]),
    st.sampled_from([torch.int64, torch.int32, torch.float32, torch.bool]),
    st.integers(-1, 3),
    st.lists(st.text(max_size=3), max_size=4),
)
def test_any_tensors_in_a_file_make_a_bank_or_one_line(shape, labels, kind, kind_of_labels, label, names):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "b.safetensors"
        tensors = {"features": torch.ones(shape).to(kind), "labels": torch.full(labels, label).to(kind_of_labels)}
        save_file(tensors, file, {"names": json.dumps(names), "facts": "{}"})
        if line := line_of(lambda: MemoryBank.load(file)):
            assert "not a memory bank" in line
            return
        bank = MemoryBank.load(file)
        assert bank.features.ndim == 2
        assert bank.labels.shape == bank.features.shape[:1]
        assert 0 <= int(bank.labels.min()) <= int(bank.labels.max()) < len(names)


def test_a_damaged_part_or_plan_of_a_bank_is_named(tmp_path):
    parts = tmp_path / "b.parts"
    _open_parts(parts, FACTS)
    _open_parts(parts, FACTS)
    assert [file.name for file in parts.iterdir()] == ["plan.json"]
    (parts / "000000000.safetensors").write_bytes(valid_part())
    (parts / "000001024.safetensors").write_bytes(valid_part()[:-7])
    with pytest.raises(VitscopeError, match=r"000001024.safetensors: is damaged .*; delete it and run it again"):
        _join(parts, tmp_path / "b.safetensors", ClassNames(("a", "b", "c")), FACTS)
    (parts / "000001024.safetensors").unlink()  # as another process at the same bank leaves it
    with pytest.raises(VitscopeError, match=r"000001024.safetensors: is damaged \(No such file"):
        _join(parts, tmp_path / "b.safetensors", ClassNames(("a", "b", "c")), FACTS)
    (parts / "000001024.safetensors").write_bytes(valid_part())
    with pytest.raises(VitscopeError, match=r"its parts make no bank \(labels from 0 to 2, and 2 class names\)"):
        _join(parts, tmp_path / "b.safetensors", ClassNames(("a", "b")), FACTS)
    (parts / "plan.json").write_text('{"model')
    with pytest.raises(VitscopeError, match=r"plan.json: is damaged .*; take the folder .*b.parts away"):
        _open_parts(parts, FACTS)
