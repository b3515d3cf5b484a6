"""A run's summary: means, intervals, ranks and marks with known answers; states as over all at once; hostile names."""

import csv
import json
import re
import resource
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats

from tests.bench.made import NAMES, TYPES, row, rows_of_values, write
from vitscope.bench.sets import fold_key
from vitscope.bench.statistics import interval, ranks, resampled_means
from vitscope.bench.summarise import summarise
from vitscope.datasets import open_dataset
from vitscope.errors import VitscopeError
from vitscope.metrics import GridMaps, ImageNetSegmentation, MaxBoxAccuracy, ThresholdCurve, Truth, rows_of

IOU = "agcam/iou@0.5"


def lines_of(summary):
    return {(line.method, line.metric): line for line in summary.lines}


def test_means_counts_and_what_is_left_out(tmp_path):
    rows = rows_of_values(IOU, {"daam": [0.1, 0.2, 0.6, 0.9], "agcam": [0.5, float("nan"), 0.7, None]})
    rows.append(row("i00003", "agcam", IOU, None, error="flat"))
    rows += rows_of_values(IOU, {"cdam": [0.5, None, None, None]})
    found = lines_of(summarise(write(tmp_path, rows), write=False))
    daam, agcam, cdam = (found[name, IOU] for name in ("daam", "agcam", "cdam"))
    assert daam.mean == pytest.approx(0.45)
    assert (daam.n, daam.errors, daam.undefined, daam.missing) == (4, 0, 0, 0)
    assert agcam.mean == pytest.approx(0.6)
    assert (agcam.n, agcam.errors, agcam.undefined, agcam.missing) == (2, 1, 1, 0)
    assert (cdam.n, cdam.missing, cdam.low) == (1, 3, None)
    assert agcam.best
    assert (daam.rank, agcam.rank, cdam.rank) == (3, 1.5, 1.5)
    assert daam.ranked == 1
    assert daam.beats_trivial is None


def test_resampled_means_are_those_of_the_draws():
    rng = np.random.default_rng()
    values = rng.normal(size=(3, 25))
    values[1, rng.random(25) < 0.3] = np.nan
    drawn = np.random.default_rng(7).integers(25, size=(50, 25))
    assert resampled_means(values, 50, seed=7) == pytest.approx(np.nanmean(values[:, drawn], axis=2).T)


def test_intervals_are_those_of_scipys_bootstrap():
    values = np.random.default_rng().exponential(size=80)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile").confidence_interval
    low, high = interval(resampled_means(values[None], 20_000), 0.95)
    assert (low[0], high[0]) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_intervals_cover_the_mean_as_often_as_they_say():
    values = np.random.default_rng(3).exponential(size=(1500, 60))
    covered = []
    for some in values.reshape(15, 100, 60):
        low, high = interval(resampled_means(some, 400), 0.9)
        covered.append((low <= 1) & (high >= 1))
    assert 0.85 < np.mean(covered) < 0.93


def test_ranks_share_ties_and_need_every_method():
    values = np.array([[3.0, 1.0, 1.0], [3.0, 2.0, np.nan], [1.0, 3.0, 1.0], [np.nan] * 3])
    assert ranks(values, True)[:3, :2].tolist() == [[1.5, 3], [1.5, 2], [3, 1]]
    assert ranks(values, False)[:3, :2].tolist() == [[2.5, 1], [2.5, 2], [1, 3]]
    assert np.isnan(ranks(values, True)[:, 2]).all()
    assert np.isnan(ranks(values, True)[3]).all()


@pytest.mark.parametrize(("metric", "sign"), [(IOU, 1), ("abpc/morf", -1)])
def test_marks_follow_the_metrics_direction(tmp_path, metric, sign):
    rng = np.random.default_rng(5)
    noise = rng.normal(0, 0.05, 60)
    base = 0.5 + noise
    values = {
        "random": base,
        "center": base + sign * 0.1 + rng.normal(0, 0.05, 60),
        "daam": base + sign * 0.3 + rng.normal(0, 0.05, 60),
        "agcam": base + sign * 0.299 + rng.normal(0, 0.05, 60),
        "cdam": base + sign * 0.1 + rng.normal(0, 0.05, 60),
        "rollout": base - sign * 0.2 + rng.normal(0, 0.05, 60),
    }
    found = {m: line for (m, _), line in lines_of(summarise(write(tmp_path, rows_of_values(metric, values)))).items()}
    assert sum(line.best for line in found.values()) == 1
    assert {m for m, line in found.items() if line.near_best} == {"daam", "agcam"}
    verdict = {m: line.beats_trivial for m, line in found.items()}
    assert verdict == {"random": None, "center": None, "daam": True, "agcam": True, "cdam": False, "rollout": False}
    best = next(m for m, line in found.items() if line.best)
    assert found[best].p_best is None
    assert found["cdam"].p_best < 0.05
    assert {m for m in found if found[m].rank < 2.5} == {"daam", "agcam"}


def _maps_and_truth(n, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = GridMaps(torch.rand(n, 5, 5, generator=generator), (20, 20))
    masks = torch.zeros(n, 20, 20, dtype=torch.bool)
    boxes = []
    for k in range(n):
        x, y = torch.randint(0, 10, (2,), generator=generator).tolist()
        masks[k, y : y + 9, x : x + 7] = True
        boxes.append(torch.tensor([[x, y, x + 6, y + 8]]))
    return maps, Truth(masks, boxes)


@pytest.mark.parametrize("metric", [ThresholdCurve(steps=11), MaxBoxAccuracy(steps=11), ImageNetSegmentation()])
def test_values_of_a_set_are_those_of_all_at_once(tmp_path, metric):
    n, rows, truth = 23, [], {}
    images = [f"i{k:05d}" for k in range(n)]
    for seed, method in enumerate(("daam", "random")):
        result = metric(*_maps_and_truth(n, seed))
        state = metric.state()
        state.update(result, [fold_key(image) for image in images])
        truth[method] = state.compute()
        for name, column in rows_of(metric, result).items():
            rows += [row(image, method, name, value) for image, value in zip(images, column.tolist(), strict=True)]
    summary = summarise(write(tmp_path, rows, parts=4), resamples=50)
    found = lines_of(summary)
    group = metric.facts[0].name.split("/")[0]
    ends = ":steps=11" if hasattr(metric, "steps") else ""
    for method, values in truth.items():
        for name, value in values.items():
            line = found[method, f"{group}/{name}{ends}"]
            assert line.mean == pytest.approx(value, abs=1e-12)
            assert line.over_set
            assert line.n == n
            assert line.low is not None
            assert line.low <= line.high
    assert any(pair.test.startswith("paired bootstrap") for pair in summary.pairs)


def test_intervals_of_a_set_are_those_of_a_loop(tmp_path):
    metric, n = ImageNetSegmentation(), 12
    result = metric(*_maps_and_truth(n, 0))
    rows = [
        row(f"i{k:05d}", "daam", name, value)
        for name, column in rows_of(metric, result).items()
        for k, value in enumerate(column.tolist())
    ]
    line = lines_of(summarise(write(tmp_path, rows), resamples=200, seed=4, write=False))["daam", "segmentation/miou"]
    again = []
    for draw in np.random.default_rng(4).integers(n, size=(200, n)):
        sums = {name: float(part[torch.from_numpy(draw)].sum()) for name, part in result.parts.items()}
        again.append(sum(sums[f"shared_{part}"] / sums[f"joined_{part}"] for part in ("thing", "rest")) / 2)
    assert (line.low, line.high) == pytest.approx(tuple(np.quantile(again, [0.025, 0.975])))


def test_a_set_without_its_curves_says_so(tmp_path):
    rows = rows_of_values("curve/area", {"daam": [0.1, 0.2]}) + rows_of_values("curve/iou@0.5", {"daam": [0.1, None]})
    line = lines_of(summarise(write(tmp_path, rows)))["daam", "curve/best"]
    assert line.mean is None
    assert "two folds" in line.note


def test_a_set_of_which_every_image_failed_is_told_once(tmp_path):
    rows = [
        row(f"i{k}", "daam", name, None, error="flat") for k in range(3) for name in ("curve/best", "curve/threshold")
    ]
    summary = summarise(write(tmp_path, rows))
    assert {(line.metric, line.mean, line.n, line.errors, line.over_set) for line in summary.lines} == {
        (name, None, 0, 3, True) for name in ("curve/best", "curve/threshold")
    }
    assert len(summary.lines) == 2


def test_an_image_counts_once_in_a_set(tmp_path):
    """By whatever rows there are of it: of the picture's own values, of the curve, or of the value of the set."""
    rng = np.random.default_rng()
    metric, n, rows = ThresholdCurve(steps=11), 40, []
    columns = {name: column.tolist() for name, column in rows_of(metric, metric(*_maps_and_truth(n, 0))).items()}
    fates = {method: rng.choice(["whole", "failed", "told", "undefined", "none"], n) for method in ("daam", "random")}
    fates["daam"][:5] = ["whole", "whole", "failed", "undefined", "none"]
    for method, fate in fates.items():
        for k, what in enumerate(fate):
            image, names = f"i{k:05d}", ["curve/area:steps=11", "curve/oracle:steps=11"]
            if what == "whole":
                rows += [row(image, method, name, column[k]) for name, column in columns.items()]
            elif what in ("failed", "told"):
                names = names if what == "failed" else ["curve/best:steps=11"]
                rows += [row(image, method, name, None, error="flat") for name in names]
            elif what == "undefined":
                rows += [row(image, method, name, float("nan")) for name in names]
    seen = np.any([fate != "none" for fate in fates.values()], axis=0)
    lines = [line for line in summarise(write(tmp_path, rows), resamples=20, write=False).lines if line.over_set]
    assert {(line.method, line.metric) for line in lines} == {
        (method, f"curve/{name}:steps=11") for method in fates for name in ("best", "threshold")
    }
    for line in lines:
        fate = fates[line.method][seen]
        expected = [np.isin(fate, kinds).sum() for kinds in (["whole"], ["failed", "told"], ["undefined"], ["none"])]
        assert [line.n, line.errors, line.undefined, line.missing] == expected


def test_curves_and_classes(tmp_path):
    rows, rng = [], np.random.default_rng()
    values = rng.random((9, 3))
    for k in range(9):
        rows.append(row(f"i{k}", "daam", "abpc/abpc", float(values[k, 0]), target=k % 3))
        rows += [
            row(f"i{k}", "daam", f"abpc/morf@{x:g}", float(v)) for x, v in zip((0, 0.1, 1), values[k], strict=True)
        ]
    plan = {"model": "m", "dataset": {"dataset": "d"}, "methods": ["daam"]}
    manifest = {"plan": plan, "classes": ["ant", "bee", "cat"]}
    summary = summarise(write(tmp_path, rows, manifest=manifest))
    (curve,) = summary.curves
    assert curve.x == (0, 0.1, 1)
    assert curve.mean == pytest.approx(values.mean(axis=0))
    error = values.std(axis=0, ddof=1) / 3
    assert curve.high == pytest.approx(values.mean(axis=0) + 1.96 * error)
    means = {one.label: (one.mean, one.n) for one in summary.classes}
    assert means == {c: (pytest.approx(values[c::3, 0].mean()), 3) for c in range(3)}
    order = np.argsort(-values[:, 0])
    (extremes,) = summary.extremes
    assert [image for image, _ in extremes.best] == [f"i{k}" for k in order[:4]]
    assert [image for image, _ in extremes.worst] == [f"i{k}" for k in order[::-1][:4]]
    page = (tmp_path / "page.html").read_text()
    assert "bee" in page
    assert "no longer where they were" in page


def test_a_runs_manifest_is_told(tmp_path):
    manifest = {
        "status": "running",
        "plan": {
            "model": "timm/tiny",
            "dataset": {"dataset": "pets", "root": str(tmp_path / "gone")},
            "methods": ["b", "a"],
        },
        "classes": ["ant", "bee"],
        "left_out": {"agcam": 55, "srg": 0},
        "skipped": {"two_objects/asked": "needs masks of two things"},
        "metrics": [{"metric": IOU, "title": "not to be listed"}],
    }
    summary = summarise(write(tmp_path, rows_of_values(IOU, {"a": [0.1, 0.2], "b": [0.3, 0.1]}), manifest=manifest))
    assert list(summary.methods) == ["b", "a"]
    assert (summary.about.model, summary.about.dataset) == ("timm/tiny", "pets")
    assert summary.about.names == {0: "ant", 1: "bee"}
    page = (tmp_path / "page.html").read_text()
    assert "not finished" in page
    assert "agcam: 55 misclassified images are left out" in page
    assert "srg: 0" not in page
    assert "needs masks of two things" in page
    assert "not to be listed" not in page


def test_thumbnails_stand_where_the_pictures_are_still_there(tmp_path):
    scenes = open_dataset("scenes", limit=4)
    values = dict(zip(scenes.ids, (0.1, 0.9, 0.4, 0.6), strict=True))
    rows = [row(image, "daam", IOU, value) for image, value in values.items()]
    manifest = {"plan": {"source": "scenes", "dataset": scenes.provenance}}
    summarise(write(tmp_path, [*rows, row("mosaic", "daam", IOU, 0.5)], manifest=manifest))
    page = (tmp_path / "page.html").read_text()
    assert page.count("background-image") == 4
    assert len(re.findall(r'class="shot shot-\d+"', page)) == 4
    assert "no longer where they were" not in page


def test_printed_numbers_stand_beside_the_measured(tmp_path):
    summary = summarise(write(tmp_path, rows_of_values(IOU, {"agcam": [0.3, 0.5]})), write=False)
    here = [one for one in summary.compared if one.printed.dataset == "ILSVRC2012 val"]
    assert [one.printed.value for one in here] == [0.5212]
    assert here[0].line.mean == 0.4
    assert any("here m, there ViT-B/16" in words for words in here[0].differs)


def test_the_same_folder_gives_the_same_files_whatever_the_order(tmp_path):
    rng = np.random.default_rng()
    rows = rows_of_values(IOU, {m: rng.random(30) for m in ("daam", "agcam", "random")})
    manifest = {"plan": {"methods": ["agcam", "daam", "random"]}}
    one = summarise(write(tmp_path / "one", rows, manifest=manifest)).folder
    two = summarise(write(tmp_path / "two", rows[::-1], parts=3, manifest=manifest)).folder
    for name in ("summary.json", "summary.csv", "pairs.csv", "tables/agcam.tex"):
        assert (one / name).read_text() == (two / name).read_text()
    assert not list(one.rglob("*.unfinished"))


def test_summary_json_is_the_contract(tmp_path):
    rows = rows_of_values(IOU, {"daam": [0.1, 0.4], "agcam": [float("nan"), float("nan")]})
    summarise(write(tmp_path, rows))
    read = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert {"method", "metric", "mean", "low", "high", "n"} <= set(read[0])
    assert read[0]["mean"] == 0.25
    assert read[1]["mean"] is None
    with (tmp_path / "summary.csv").open() as file:
        assert [one["mean"] for one in csv.DictReader(file)] == ["0.25", ""]


HOSTILE = "<script>alert(1)</script> _ & % | $x^2$ {a} ~ # \\ \"'"


def test_hostile_names_stay_words(tmp_path):
    rows = rows_of_values(IOU, {HOSTILE: [0.1, 0.4, 0.6], "random": [0.1, 0.2, 0.3]})
    rows += rows_of_values(f"{HOSTILE}/value", {HOSTILE: [0.1, 0.2, 0.3]})
    rows = [(f"{one[0]} {HOSTILE}", *one[1:]) for one in rows]
    rows.append(row("i9", HOSTILE, IOU, None, error=HOSTILE))
    manifest = {"plan": {"model": HOSTILE, "dataset": {"dataset": HOSTILE}}, "classes": [HOSTILE], HOSTILE: HOSTILE}
    summarise(write(tmp_path, rows, manifest=manifest))
    page = (tmp_path / "page.html").read_text()
    assert "alert(1)" in page
    assert page.count("<script>") == 1
    for path in (tmp_path / "tables").iterdir():
        text = path.read_text()
        assert path.resolve().parent == (tmp_path / "tables").resolve()
        if path.suffix == ".md":
            assert "<script" not in text
            table = [line for line in text.splitlines() if line.startswith("|")]
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
        else:
            bare = re.sub(r"\\[&%$#_{}]|\\textbackslash\{\}", "", text)
            body = bare[bare.index(r"\toprule") : bare.index(r"\bottomrule")]
            assert "%" not in body
            assert "#" not in body
            assert "<" not in body
            assert {line.count("&") for line in body.splitlines() if line.endswith(r"\\")} == {body.count("&") // 3}


def test_a_manifest_of_another_version_is_refused(tmp_path):
    write(tmp_path, rows_of_values(IOU, {"daam": [0.1, 0.4]}), manifest={"schema_version": 99})
    with pytest.raises(VitscopeError, match="schema version 99, and this vitscope reads 1"):
        summarise(tmp_path)


def test_a_page_asks_nothing_of_the_network(tmp_path):
    summarise(write(tmp_path, rows_of_values(IOU, {"daam": [0.1, 0.4]})))
    page = (tmp_path / "page.html").read_text()
    assert not re.search(r"""(?:src|href)=["']?(?!data:)|url\((?!["']?data:)|@import|fetch\(""", page)
    assert "prefers-color-scheme: dark" in page


@pytest.mark.parametrize("damage", ["missing", "words", "list"])
def test_a_manifest_that_is_none(tmp_path, damage):
    write(tmp_path, rows_of_values(IOU, {"daam": [0.1]}))
    path = tmp_path / "manifest.json"
    path.unlink() if damage == "missing" else path.write_text("{" if damage == "words" else "[]")
    with pytest.raises(VitscopeError, match="manifest"):
        summarise(tmp_path)


@pytest.mark.slow
def test_a_million_rows(tmp_path):
    methods, metrics, n = [f"m{k}" for k in range(10)], [f"agcam/iou@{k / 100:g}" for k in range(1, 51)], 2000
    rng = np.random.default_rng(0)
    (tmp_path / "parts").mkdir()
    (tmp_path / "manifest.json").write_text("{}")
    for part in range(20):
        images = [f"i{k:06d}" for k in range(part * n // 20, (part + 1) * n // 20)]
        count = len(images) * len(methods) * len(metrics)
        columns = [
            np.repeat(images, len(methods) * len(metrics)),
            np.tile(np.repeat(methods, len(metrics)), len(images)),
            np.tile(metrics, len(images) * len(methods)),
            rng.random(count), np.zeros(count, int), np.zeros(count, int), np.full(count, ""),
        ]  # fmt: skip
        arrays = [pa.array(column, kind) for column, kind in zip(columns, TYPES, strict=True)]
        pq.write_table(pa.Table.from_arrays(arrays, names=list(NAMES)), tmp_path / f"parts/part-{part:05d}.parquet")
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    summary = summarise(tmp_path)
    assert summary.rows == 1_000_000
    assert len(summary.lines) == 500
    assert time.perf_counter() - started < 120
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KiB
