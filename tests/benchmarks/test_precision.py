"""The benchmark of precisions: what is compared, and with what."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import precision

pytestmark = pytest.mark.integration


def told(monkeypatch, capsys, *words):
    threads = str(torch.get_num_threads())
    given = ["precision.py", "--limit", "2", "--batch", "2", "--threads", threads, "--json", *words]
    monkeypatch.setattr(precision.argparse._sys, "argv", given)
    precision.main()
    return json.loads(capsys.readouterr().out)


def test_float32_is_itself_and_bf16_is_near(monkeypatch, capsys):
    found = told(
        monkeypatch, capsys, "--no-speed", "--modes", "float32,bf16", "--methods", "daam,cdam", "--metrics", "abpc"
    )
    same, near = found["fidelity"]["float32"], found["fidelity"]["bf16"]
    assert set(same) == {"daam", "cdam", "logits", "evidence", "abpc, same maps", "abpc, own maps"}
    for what in ("daam", "cdam", "logits", "evidence"):
        assert same[what]["lowest"] == pytest.approx(1)
        assert 0.9 < near[what]["lowest"] <= 1
    assert near["daam"]["lowest"] < 1
    assert same["abpc, own maps"]["largest change"] == 0
    assert 0 < near["abpc, same maps"]["largest change"] < 0.05


def test_the_speed_is_measured_against_float32(monkeypatch, capsys):
    found = told(monkeypatch, capsys, "--no-fidelity", "--modes", "float32,channels-last", "--rounds", "2")
    assert set(found["speed"]["float32"]) == {"plain forward", *precision.TIMED, "evidence"}
    assert set(found["speed"]["channels-last"]) == {"plain forward"}
    assert 0.2 < found["speed"]["float32"]["plain forward"]["forwards"] < 5
