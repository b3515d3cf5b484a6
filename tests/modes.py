"""The suite in another mode: `pytest tests/methods/test_contract.py --mode bf16` makes every Explainer run so."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

import vitscope
from vitscope import Running

MODES: dict[str, dict[str, Any]] = {
    "bf16": {"running": Running("bf16")},
    "fp16": {"running": Running("fp16")},
    "channels-last": {"running": Running(channels_last=True)},
    "compiled": {"running": Running(compiled=True)},
    "limited": {"memory_limit": "1MB"},
}
"""Mode -> what an Explainer is given where a test gives nothing."""

ROUNDING = {"float32": 0.0, "bf16": 0.1, "fp16": 0.02}
"""In half precision a map also depends, by rounding, on the kernel and on what is computed beside it."""

REFUSED = ("is for weights in float32", "gives another map; run the model in float32")
"""What half precision does not do, by design: a test that asks for it is skipped."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mode", choices=sorted(MODES), help="run every Explainer in this mode")


def pytest_configure(config: pytest.Config) -> None:
    if mode := config.getoption("--mode"):
        vitscope.Explainer.__init__.__kwdefaults__.update(MODES[mode])


def rounding() -> float:
    """What half precision adds to any bound, relative to the norm."""
    return ROUNDING[Running.of(vitscope.Explainer.__init__.__kwdefaults__["running"]).precision]


def within(bound: float, shaky: bool = False) -> float:
    """The bound in this mode; a method whose values hang on small differences has none in half precision."""
    return math.inf if shaky and rounding() else max(bound, rounding())


def limited() -> bool:
    """Whether a batch may go in several passes."""
    return vitscope.Explainer.__init__.__kwdefaults__["memory_limit"] is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    try:
        return (yield)
    except vitscope.VitscopeError as error:
        if rounding() and any(words in str(error) for words in REFUSED):
            pytest.skip(str(error))
        raise
