"""The benchmarks of memory and of the way of the data: what is measured, and what must hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import data_path, memory
from vitscope.methods import list_methods

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the process's high-water mark from /proc")


def measured(*words):
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "memory.py", "--json", "--threads", "1", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["mib"]


def test_every_method_is_measured_but_those_that_run_altered_pictures():
    assert set(memory.default_methods()) == {facts.name for facts in list_methods() if facts.family not in memory.SLOW}


@linux
def test_a_job_in_this_process(monkeypatch):
    words = ["memory", "--one", "forward", "--model", "vit_tiny_patch16_224", "--size", "64", "--batches", "4"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(memory.torch, "set_num_threads", lambda count: None)
    arguments = memory._arguments()
    for job in ("forward", "backward", "backward:frozen", "daam,agcam,cdam"):
        assert memory.measured(job, arguments)["mib"] >= 0


@linux
@pytest.mark.slow
def test_what_is_measured_grows_with_the_batch():
    found = measured("--model", "vit_tiny_patch16_224", "--size", 224, "--batches", 2, 8, "--methods", "cdam;nothing")
    for job in ("forward", "backward", "backward:frozen", "daam,agcam,cdam"):
        small, large = found[job]["2"], found[job]["8"]
        assert 2 < large / small < 6, job
    assert found["backward:frozen"]["8"] < found["backward"]["8"]
    assert "unknown method 'nothing'" in found["nothing"]["2"]
    table = memory.table({job: {2: row["2"]} for job, row in found.items()}, [2])
    assert "| plain forward and backward |" in table
    assert "| 1.00 |" in table


@linux
@pytest.mark.slow
def test_the_three_papers_methods_take_little_more_than_one_backward_pass():
    found = measured("--batches", 1, "--methods", "daam,agcam,cdam")  # ViT-S/14 at 518 pixels: 1370 tokens
    assert found["daam,agcam,cdam"]["1"] <= 1.25 * found["backward:frozen"]["1"]
    assert found["daam,agcam,cdam"]["1"] <= 1.25 * found["backward"]["1"]


@linux
@pytest.mark.slow
@pytest.mark.parametrize("methods", ["daam,agcam,cdam", "chefer"])
def test_a_limit_is_kept(methods):
    free = measured("--batches", 4, "--methods", methods)[methods]["4"]
    limit = round(free / 2)
    limited = measured("--batches", 4, "--methods", methods, "--memory-limit", f"{limit}MiB")[methods]["4"]
    assert limited <= limit


def test_the_share_of_waiting(monkeypatch, capsys):
    words = ["data_path", "--models", "vit_tiny_patch16_224", "--count", "4", "--batch", "2", "--rounds", "1"]
    monkeypatch.setattr(data_path, "SIZES", ((60, 40), (120, 90)))
    monkeypatch.setattr(sys, "argv", [*words, "--json"])
    data_path.main()
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["workers"] for row in rows] == [0, 1, 2] * 2
    assert all(0 < row["share"] < 1 and row["rate"] > 0 for row in rows)
    monkeypatch.setattr(sys, "argv", [*words, "--workers", "0"])
    data_path.main()
    assert "| vit_tiny_patch16_224 | 120 x 90 | 0 |" in capsys.readouterr().out
