"""The property that every subject of the fuzzer keeps: success, or one line of vitscope's."""

from __future__ import annotations

import random

import pytest
from tools.fuzz.judge import FINDING, READ, REFUSED, case_of, judge
from tools.fuzz.subjects import SUBJECTS

from vitscope import VitscopeError

FEW = 60
MANY = pytest.param(3000, marks=pytest.mark.slow)


def line_of(does):
    """The one line of what vitscope refuses; "" where it does not."""
    try:
        does()
    except VitscopeError as error:
        return str(error)
    return ""


def holds(name, cases, folder, seed=None):
    """How many of a subject's cases were read, and how many refused; fails at the first finding."""
    if seed is None:
        seed = 0 if cases == FEW else random.SystemRandom().randrange(10**6)
    subject = SUBJECTS[name]()
    subject.prepare(folder)
    counts = {READ: 0, REFUSED: 0}
    for index in range(cases):
        case = case_of(subject, name, seed, index)
        verdict = judge(subject, case)
        again = f"python -m tools.fuzz --subject {name} --seed {seed} --first {index} --cases 1"
        assert verdict.outcome != FINDING, f"{verdict.text}; {again}"
        counts[verdict.outcome] += 1
    return counts
