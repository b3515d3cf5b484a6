"""The benchmark of a GPU: each step by itself, its failures named, a page of them all."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import gpu

pytestmark = pytest.mark.integration


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    def run(*words, steps=gpu.STEPS):
        monkeypatch.setattr(gpu, "STEPS", steps)
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "out"), *words])
        with pytest.raises(SystemExit) as ended:
            gpu.main()
        return capsys.readouterr().out, ended.value.code

    return run


def test_what_fails_is_named_and_the_others_go_on(call, tmp_path, monkeypatch):
    for name, text in {
        "good.py": "print('forty\\ntwo')",
        "bad.py": "import sys; sys.exit('bad.py: no such | thing')",
        "slow.py": "import time; time.sleep(60)",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(gpu, "HERE", tmp_path / "benchmarks")
    (tmp_path / "benchmarks").mkdir()
    for name in ("good.py", "bad.py", "slow.py"):
        (tmp_path / name).rename(tmp_path / "benchmarks" / name)
    steps = [gpu.Step(name, f"{name}.py", "", "") for name in ("bad", "slow", "missing", "good")]
    steps[1] = replace(steps[1], minutes=1 / 60)
    page, code = call("--device", "cpu", steps=steps)
    assert code == 1
    assert "| bad | 0 | exit code 1: bad.py: no such / thing |" in page
    assert "| slow | 1 | took more than" in page
    assert "| missing | 0 | benchmarks/missing.py is not there |" in page
    assert "### good" in page
    assert "forty\ntwo" in page
    assert page.strip() == (tmp_path / "out" / "gpu.md").read_text().strip()
    told = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [bool(step["failed"]) for step in told["steps"]] == [True, True, True, False]
    assert told["machine"]["torch"] == torch.__version__.split("+")[0]


def test_costs_become_a_table(call, tmp_path, monkeypatch):
    cost = {
        "setting": {"batch": 4},
        "forward_s": 0.01,
        "cost": {"a": {"forwards": 2.0, "low": 1.5, "high": 2.5, "rounds": 3, "peak_mib": 7.4}, "b": {"failed": "no"}},
    }
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "cost.py").write_text(f"print('''{json.dumps(cost)}''')")
    monkeypatch.setattr(gpu, "HERE", tmp_path / "benchmarks")
    page, code = call("--device", "cpu", "--quick", steps=[gpu.Step("costs", "cost.py", "", "")])
    assert code == 0
    assert "One forward 10.00 ms, 400 pictures a second." in page
    assert "| a | 2.00 | 1.50 to 2.50 | 200 | 7 |" in page
    assert "| b | no | | | |" in page
    assert "no measurements" in page


def test_every_step_can_be_run_small_and_on_a_device_of_ones_choice():
    for step in gpu.STEPS:
        assert step.minutes > 0
        if step.script:
            assert "DEVICE" in step.words
            assert "DEVICE" in step.quick


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(call):
    assert "torch.cuda.is_available() is False" in call()[1]
