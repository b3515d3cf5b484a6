"""The examples in docstrings run, and none is skipped."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import vitscope


def modules():
    names = [one.name for one in pkgutil.walk_packages(vitscope.__path__, "vitscope.")]
    return [name for name in names if not name.endswith("__main__")]


def with_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in modules():
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:  # an extra that is not installed
            if str(error.name).startswith("vitscope"):
                raise
            continue
        if ">>>" in inspect.getsource(module):
            yield from (one for one in finder.find(module) if one.examples)


EXAMPLES = list(with_examples())


@pytest.mark.parametrize("example", EXAMPLES, ids=[one.name for one in EXAMPLES])
def test_the_example_of_a_docstring_runs(example):
    assert not any(one.options.get(doctest.SKIP) for one in example.examples)
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert not result.failed, "".join(said)


def test_the_entrances_have_examples():
    names = {one.name for one in EXAMPLES}
    assert {
        "vitscope.explainer.Explainer",
        "vitscope.evidence.Evidence",
        "vitscope.attribution.Explanation",
        "vitscope.attribution.Attribution",
        "vitscope.datasets.scenes.Scenes",
        "vitscope.targets.target.Contrast",
        "vitscope.targets.bank.MemoryBank",
        "vitscope.methods.registry.as_methods",
        "vitscope.metrics.localization.energy_in_mask",
        "vitscope.models.resolve.load",
    } <= names
