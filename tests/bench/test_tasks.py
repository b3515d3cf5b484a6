"""From presets to what is computed: each metric once, whatever asks for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from tests.bench.made import mask_folder
from vitscope import Explainer
from vitscope.bench import bench, make_plan, summarise
from vitscope.bench.tasks import Task, groups_of
from vitscope.errors import MetricError
from vitscope.metrics import Facts, Preset
from vitscope.metrics.base import described

TRUTH = ("mask", "boxes", "label")


def preset(name, *metrics, **options):
    return Preset(name, name, "a test's", metrics, **options)


def test_alike_presets_share_a_metric(tmp_path):
    """Its curve is computed once and written once."""
    presets = [preset("a", "curve/area", "pointing"), preset("b", "curve/oracle", "curve/best", "curve/area", "energy")]
    (group,), skipped = groups_of(presets, TRUTH)
    found = {task.facts.name.split("/")[0]: task for task in group.tasks}
    assert not skipped
    assert len(found) == len(group.tasks) == 3
    assert (found["curve"].names, found["curve"].over_set) == (("curve/area", "curve/oracle"), ("curve/best",))
    assert [found[one].preset for one in ("pointing", "curve", "energy")] == ["a", "a, b", "b"]
    explainer, home = Explainer("scenes"), mask_folder(tmp_path / "data")
    bench(
        make_plan(explainer, "masks", home, methods="cdam,frame", metrics=presets), tmp_path / "o", explainer=explainer
    )
    lines = summarise(tmp_path / "o", resamples=20).lines
    assert {line.metric for line in lines} >= {"curve/area", "curve/oracle", "curve/best", "energy/share"}


@pytest.mark.parametrize("options", [{"images": "correct"}, {"target": "label"}, {"preprocessing": {"crop_pct": 1.0}}])
def test_presets_that_are_not_alike_share_no_metric(options):
    """Both would write the points of its one curve."""
    with pytest.raises(
        MetricError, match="a and b both measure curve/oracle, each on pictures or preprocessing of its"
    ):
        groups_of([preset("a", "curve/area"), preset("b", "curve/oracle", **options)], TRUTH)
    groups, _ = groups_of([preset("a", "curve/area"), preset("b", "curve/area:steps=11", **options)], TRUTH)
    assert sum(len(group.tasks) for group in groups) == 2


@dataclass(frozen=True)
class Stepwise:
    """A metric of maps whose attributes are called as those of a randomisation."""

    steps: int = 3
    facts: ClassVar[tuple[Facts, ...]] = described(
        "grid_pointing", "map", "mask", "a test's", {"value": ("Value", True)}
    )
    parameter: ClassVar[str] = ""

    def compare(self):
        """Nothing."""


def test_only_what_declares_it_is_measured_a_part_at_a_time():
    task = Task(Stepwise(), ("grid_pointing/value",), (), "a", False)
    assert task.whole == ""
    (group,), _ = groups_of([preset("a", "sanity", "grid_pointing", "noise", "equivariance", "pointing")], TRUTH)
    assert {one.facts.name.split("/")[0]: one.whole for one in group.of_part} == {
        "sanity": "sanity",
        "grid_pointing": "mosaics",
    }
    assert replace(group, tasks=(task,)).batched == (task,)
