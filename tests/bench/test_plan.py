"""What of a plan decides its hash, field by field."""

from __future__ import annotations

import dataclasses

import pytest

from vitscope import Explainer, Running
from vitscope.bench.plan import Plan, make_plan
from vitscope.metrics import PRESETS

OTHER = {
    "model": "another",
    "parameters": "0",
    "source": "scenes:count=5",
    "dataset": {"ids": "0"},
    "methods": ("frame",),
    "presets": (PRESETS["segmentation"],),
    "truth": ("masks",),
    "own": {"crop_pct": 0.5},
    "asked": {"crop_pct": 0.5},
    "seed": 7,
    "max_forwards": 9,
    "part_size": 2,
    "versions": {"torch": "0"},
    "running": Running("bf16"),
    "activation": "sigmoid",
}
SAME = {"weights": "elsewhere.safetensors", "weights_key": "model_ema", "running": Running(channels_last=True)}
"""Weights are known by their own hash; how forwards are made faster decides no row."""


@pytest.fixture(scope="module")
def plan():
    return make_plan(Explainer("scenes"), "scenes:count=4", methods="cdam", metrics="energy")


def test_every_field_is_looked_at():
    assert {field.name for field in dataclasses.fields(Plan)} == OTHER.keys() | SAME.keys()


@pytest.mark.parametrize("field", OTHER)
def test_another_value_has_another_hash(plan, field):
    assert dataclasses.replace(plan, **{field: OTHER[field]}).hash != plan.hash


@pytest.mark.parametrize("field", SAME)
def test_what_changes_no_row_has_the_same(plan, field):
    assert dataclasses.replace(plan, **{field: SAME[field]}).hash == plan.hash
