"""What the sanity check found of a method is told where its map is shown."""

from __future__ import annotations

import json

import pytest

from vitscope.methods import list_methods, survival


def test_what_was_measured_is_of_registered_methods_and_a_correlation():
    known = {facts.name for facts in list_methods()}
    for values in survival.measured().values():
        assert values.keys() <= known
        assert all(-1 <= value <= 1 for value in values.values())


def test_a_map_that_survives_on_every_model_is_cautioned_first():
    facts = {one.name: one for one in list_methods()}
    assert facts["rollout"].cautions[0].startswith("Fails the sanity check")
    assert not any("sanity" in line for line in facts["cdam"].cautions)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"a": {"m": 0.8}, "b": {"m": 0.6}}, "(rank correlation 0.80 on a, 0.60 on b)"),
        ({"a": {"m": 0.8}, "b": {"m": 0.4}}, ""),  # on one model alone
        ({"a": {"m": 0.8}, "b": {}}, "(rank correlation 0.80 on a)"),
        ({"a": {}}, ""),
    ],
)
def test_the_worst_counts(values, told, monkeypatch):
    monkeypatch.setattr(survival, "measured", lambda: json.loads(json.dumps(values)))
    found = survival.failure("m")
    assert (told in found) if told else found == ""
