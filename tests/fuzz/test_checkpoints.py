"""Broken weights: put into the model, or refused in one line."""

from __future__ import annotations

import pytest
import torch
from tools.fuzz.subjects.checkpoints import small, valid_files

from tests.fuzz.held import FEW, MANY, holds
from vitscope import ModelError
from vitscope.models import load
from vitscope.models.weights import put_weights, read_weights


@pytest.mark.parametrize("cases", [FEW, MANY])
def test_broken_weights_are_read_or_refused_in_one_line(cases, tmp_path):
    counts = holds("checkpoints", cases, tmp_path)
    assert min(counts.values()) > cases / 20


@pytest.mark.parametrize("name", ["plain.safetensors", "plain.pth", "old.pth", "training.pth", "wrapped.pth"])
def test_the_fuzzers_files_fit_before_they_are_broken(name, tmp_path):
    (tmp_path / name).write_bytes(valid_files()[name])
    put_weights(small(), read_weights(tmp_path / name).tensors, name, "the model")


def test_tensors_that_are_no_numbers_are_refused():
    weights = dict(small().state_dict())
    for odd in (
        weights["head.weight"].to_sparse(),
        torch.quantize_per_tensor(weights["head.weight"], 0.1, 0, torch.qint8),
        weights["head.weight"].to("meta"),
    ):
        with pytest.raises(ModelError, match=r"these are not weights of m: RuntimeError: .*check that --model"):
            put_weights(small(), {**weights, "head.weight": odd}, "w", "m")


def test_names_in_a_file_of_weights_break_no_line(tmp_path):
    weights = {**small().state_dict(), "a\nb\x1b[31m": torch.zeros(1)}
    with pytest.raises(ModelError) as caught:
        put_weights(small(), weights, "w", "m")
    assert str(caught.value).isprintable()


def test_a_size_that_no_memory_holds_is_refused():
    with pytest.raises(ModelError, match=r"scenes: cannot be built .* give a smaller size"):
        load("scenes", image_size=(96 * 10**6, 96 * 10**6))
