"""Benchmarks of a model that shows its patches a flipped image, or a part of it: maps meet the masks where they lie."""

from __future__ import annotations

import dataclasses

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitscope import Explainer
from vitscope.bench import bench, make_plan
from vitscope.datasets import open_dataset
from vitscope.errors import MetricError
from vitscope.metrics import GridMaps, Pictures, Truth, as_metrics
from vitscope.metrics.perturb import order_of

SOURCE = "scenes:count=4,drawing=7"


class Behind(nn.Module):
    def __init__(self, model, change):
        super().__init__()
        self.model, self.change = model, change

    def forward(self, x):
        return self.model(self.change(x))


CHANGES = {
    "flipped": (lambda x: x.flip(-1), None),
    "quarter turn": (lambda x: torch.rot90(x, 1, (-2, -1)), None),
    "cropped": (lambda x: F.interpolate(x[..., 8:72, 16:80], size=96, mode="bilinear"), (8, 16, 64, 64)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_shares_in_the_mask_are_those_of_the_map_as_it_lies(name, tmp_path):
    change, window = CHANGES[name]
    scenes = Explainer("scenes")
    explainer = Explainer(Behind(scenes.anatomy.model, change), preprocessing=scenes.preprocessing, labels=scenes.names)
    plan = make_plan(explainer, SOURCE, methods="cdam,agcam", metrics="energy", part_size=4)
    bench(plan, tmp_path / "o", explainer=explainer, batch_size=2)
    rows = pq.read_table(tmp_path / "o" / "parts").to_pylist()
    found = {(row["image"], row["method"]): row["value"] for row in rows if row["metric"] == "energy/share"}
    assert len(found) == 4 * 2
    metric = next(iter(as_metrics("energy").values())).metric
    for item in open_dataset(SOURCE):
        opened = item.open()
        picture, _ = scenes.preprocessing(opened.picture)
        truth = Truth(masks=torch.from_numpy(opened.masks.regions[0].mask)[None])
        ex = explainer(picture[None], "cdam,agcam")
        for label in ex:
            pixels = ex[label].to_pixels()
            assert bool(pixels.isnan().any()) == (window is not None)
            share = metric(GridMaps(pixels.nan_to_num(), (96, 96)), truth).values["share"]
            assert found[item.id, label] == pytest.approx(float(share), abs=2e-3)


def test_a_window_is_filled_by_the_grid_and_nothing_is_known_beyond():
    maps = GridMaps(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), (6, 8), (2, 4, 4, 4))
    assert torch.equal(maps.nearest[0, 2:, 4:], torch.tensor([[1.0, 1, 2, 2]] * 2 + [[3.0, 3, 4, 4]] * 2))
    assert maps.nearest.sum() == maps.nearest[0, 2:, 4:].sum()
    assert maps.bilinear[0, :2].abs().sum() == maps.bilinear[0, :, :4].abs().sum() == 0
    ranks, count = order_of(maps, "most", "patch")
    assert count == 4
    assert torch.equal(ranks[0, 2::2, 4::2], torch.tensor([[3, 2], [1, 0]], dtype=torch.int32))
    assert bool((ranks[0, :2] == 4).all())


def test_a_shift_by_patches_of_broken_pixels_is_refused():
    metric = next(iter(as_metrics("equivariance").values())).metric
    pictures = Pictures(torch.zeros(1, 3, 32, 32), (6.4, 6.4), (), (), torch.zeros(1))
    with pytest.raises(MetricError, match=r"6\.4 x 6\.4 pixels, which are no whole pixels"):
        metric.alterations(pictures)
    assert len(metric.alterations(dataclasses.replace(pictures, patch=(8.0, 8.0)))) == 3
