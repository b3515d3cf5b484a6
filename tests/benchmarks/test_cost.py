"""The benchmark of costs: what is measured, and how it is counted."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks import cost
from tests.conftest import build, pictures
from vitscope.errors import MethodError
from vitscope.methods import as_methods, list_methods
from vitscope.models import anatomy_of

pytestmark = pytest.mark.integration


def test_every_method_is_measured_but_those_of_the_slow_families():
    fast = {facts.name for facts in list_methods() if facts.family not in cost.SLOW}
    assert set(cost.default_methods().split(",")) == fast
    assert set(as_methods(cost.default_methods())) == fast


def test_costs_are_counted_in_forwards_and_dear_jobs_run_seldom(monkeypatch):
    now = 0.0
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: now))
    calls = {"forward": 0, "twice": 0, "dear": 0}

    def job(name, seconds):
        def run():
            nonlocal now
            calls[name] += 1
            now += seconds

        return run

    def broken():
        raise MethodError("no; use another")

    jobs = {"twice": job("twice", 0.02), "dear": job("dear", 0.4), "broken": broken}
    table, forward = cost.measure(job("forward", 0.01), jobs, rounds=6)
    assert list(table) == ["twice", "dear", "broken"]
    assert table["twice"]["forwards"] == pytest.approx(2)
    assert table["dear"]["forwards"] == pytest.approx(40)
    assert table["broken"] == {"failed": "no; use another"}
    assert forward == pytest.approx(0.01)
    assert (table["twice"]["rounds"], table["dear"]["rounds"]) == (6, cost.FEW)
    assert (calls["twice"], calls["dear"]) == (1 + 6, 1 + cost.FEW)


def test_every_job_runs():
    model = build()
    anatomy, images = anatomy_of(model), pictures(model)
    chosen = as_methods(cost.default_methods())
    jobs = {label: cost.explaining(anatomy, images, {label: method}) for label, method in chosen.items()}
    special = cost.special(anatomy, images)
    for job in (*jobs.values(), *special.values(), cost.plain(model, images)):
        job()
    assert {"evidence of every class", "daam,agcam,cdam", "daam:rows=all"} <= special.keys()


def test_from_a_shell(monkeypatch, capsys):
    monkeypatch.setattr(
        cost.timm, "create_model", lambda name, **options: build(num_classes=8) if not options else None
    )
    threads = str(torch.get_num_threads())
    words = ["cost.py", "--methods", "trivial,cdam", "--rounds", "2", "--batch", "1", "--threads", threads, "--json"]
    monkeypatch.setattr(cost.argparse._sys, "argv", words)
    cost.main()
    told = json.loads(capsys.readouterr().out)
    expected = [*(facts.name for facts in list_methods() if facts.trivial), "cdam", *cost.SETS]
    assert list(told["cost"])[: len(expected)] == expected
    assert all(row["rounds"] == 2 and row["forwards"] > 0 for row in told["cost"].values())
    monkeypatch.setattr(cost.argparse._sys, "argv", [*words[:-1], "--alone"])
    cost.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == expected[: -len(cost.SETS)]
