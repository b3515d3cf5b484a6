"""The runner: one row an image, method and metric, whatever the batch, and whatever fails."""

from __future__ import annotations

import dataclasses
import errno
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import vitscope.bench.measure as measured
import vitscope.bench.traced as traced
import vitscope.metrics
import vitscope.passes
from tests.bench.made import mask_folder
from tests.datasets import layouts
from vitscope import Explainer, Running
from vitscope.bench import bench, make_plan
from vitscope.bench.plan import Plan, deciding, hash_of
from vitscope.bench.summarise import summarise
from vitscope.datasets import Scenes, open_dataset
from vitscope.errors import DatasetError, MethodError, MetricError, VitscopeError
from vitscope.methods import Facts, Maps, registry
from vitscope.metrics import PRESETS, GridMaps, Truth, as_metrics, boxes_on_input, painted
from vitscope.trace import Needs

METHODS = "cdam,agcam,attention,random,frame"


@pytest.fixture(scope="module")
def explainer():
    return Explainer("scenes")


@pytest.fixture
def run(explainer, tmp_path):
    """Make a plan and run it; the rows and the outcome."""

    def call(source, metrics, root=None, methods=METHODS, out="o", batch_size=4, part_size=4, plan=None, **options):
        made = plan or make_plan(explainer, source, root, methods=methods, metrics=metrics, part_size=part_size)
        outcome = bench(made, tmp_path / out, explainer=explainer, batch_size=batch_size, **options)
        return rows_in(tmp_path / out), outcome

    return call


def rows_in(folder):
    return pq.read_table(folder / "parts").to_pylist()


def values(rows):
    return {(row["image"], row["method"], row["metric"]): row["value"] for row in rows}


@pytest.fixture
def folder(tmp_path):
    """A folder with masks: four good pictures, one that is none, one whose mask is missing, one of no such class."""
    home = mask_folder(tmp_path / "data")
    (home / "images" / "1.png").write_bytes(b"no picture")
    (home / "masks" / "3.png").unlink()
    listed = home / "labels.csv"
    *kept, last = listed.read_text().splitlines()
    listed.write_text("\n".join([*kept, last.partition(",")[0] + ",99"]))
    return home


def test_one_row_an_image_method_and_metric_with_the_metrics_own_numbers(run, explainer):
    rows, outcome = run("scenes:count=10,drawing=7", "agcam,energy", part_size=3)
    found = values(rows)
    assert len(found) == len(rows)
    dataset = open_dataset("scenes:count=10,drawing=7")
    names = [*as_metrics("agcam"), "energy/share"]
    metric = next(iter(as_metrics("agcam").values())).metric
    squash = explainer.preprocessing.replaced(**PRESETS["agcam"].preprocessing)
    right = 0
    for item in dataset:
        opened = item.open()
        picture, geometry = squash(opened.picture)
        ex = explainer(picture[None], METHODS)
        correct = int(ex.target) == item.label
        right += correct
        mine = {key: value for key, value in found.items() if key[0] == item.id}
        assert {key[1] for key in mine} == set(METHODS.split(","))
        assert {key[2] for key in mine} == set(names if correct else ["energy/share"])
        edges = torch.tensor([box.edges for box in opened.boxes]) - torch.tensor([0, 0, 1, 1])
        assert boxes_on_input(edges, geometry).shape[1] == 4
        mask = torch.from_numpy(opened.masks.regions[0].mask)[None]
        for label in METHODS.split(",") if correct else ():
            result = metric(GridMaps(ex[label].values, (96, 96)), Truth(masks=mask))
            assert mine[item.id, label, "agcam/iou@0.5"] == pytest.approx(float(result.values["iou"]), abs=2e-3)
    assert outcome.left_out.get("agcam", 0) == 10 - right
    assert outcome.failed == 0
    assert all(row["error"] is None and row["target"] == row["prediction"] for row in rows)
    part = [(row["image"], row["method"], row["metric"]) for row in rows if row["image"] in "012"]
    assert part == sorted(part)


def test_boxes_are_painted_where_there_are_no_masks(run, tmp_path, explainer):
    (tmp_path / "val").mkdir()
    Image.fromarray(Scenes(1, seed=3)[0].image).resize((150, 75)).save(tmp_path / "val" / "a.JPEG")
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\na,n01440764 15 8 74 40 \n")
    preset = dataclasses.replace(PRESETS["agcam"], images="all")
    rows, _ = run("imagenet", [preset], tmp_path, methods="frame,cdam")
    box = boxes_on_input(
        torch.tensor([[15, 8, 74, 40]]),
        explainer.preprocessing.replaced(**preset.preprocessing)(Image.new("RGB", (150, 75)))[1],
    )
    share = painted(box, (96, 96)).double().mean()
    assert values(rows)["a", "frame", "agcam/precision@0.5"] == pytest.approx(float(share), rel=1e-6)


@pytest.mark.integration
def test_the_batch_size_changes_no_row(run):
    metrics = "agcam,pointing,compactness,class_sensitivity@random,mif_lif@zero:steps=3,noise:samples=2,grid_pointing"
    first, _ = run("scenes:count=5", metrics, methods="cdam,random", out="a", batch_size=1, part_size=6)
    second, _ = run("scenes:count=5", metrics, methods="cdam,random", out="b", batch_size=4, part_size=6)
    assert [{**row, "value": None} for row in first] == [{**row, "value": None} for row in second]
    a, b = (np.array([row["value"] for row in rows]) for rows in (first, second))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    again, _ = run("scenes:count=5", metrics, methods="cdam,random", out="c", batch_size=4, part_size=6)
    assert repr(again) == repr(second)


@pytest.mark.integration
@pytest.mark.parametrize("source", ["scenes:count=7", "masks"])
def test_rows_are_the_same_however_pictures_are_read(run, folder, source, monkeypatch):
    """Damaged pictures and masks too, and where the processes that read are killed on the way."""
    root = folder if source == "masks" else None
    metrics, cut = "agcam,energy,loc", {"part_size": 3, "batch_size": 2}
    here, outcome = run(source, metrics, root, methods="cdam,frame", out="here", **cut)
    assert (outcome.failed > 0) == (root is not None)
    for readers in (1, 2):
        there, other = run(source, metrics, root, methods="cdam,frame", out=f"ahead{readers}", **cut, readers=readers)
        assert repr(there) == repr(here)
        assert (other.failed, other.left_out) == (outcome.failed, outcome.left_out)
    said = []

    def killing(*of, **options):
        if not said:
            for child in multiprocessing.active_children():
                child.kill()
        return trace(*of, **options)

    trace = traced.maps_of
    monkeypatch.setattr(traced, "maps_of", killing)
    rows, other = run(source, metrics, root, methods="cdam,frame", out="killed", **cut, readers=1, say=said.append)
    assert [{**row, "value": None} for row in rows] == [{**row, "value": None} for row in here]
    a, b = (np.array([row["value"] for row in rows], dtype=float) for rows in (rows, here))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)  # bit for bit, but for the pass that was killed
    assert all("died" in line for line in said)


@pytest.mark.integration
def test_a_memory_limit_changes_no_row(run, explainer, tmp_path):
    metrics = "agcam,mif_lif@zero:steps=3,class_sensitivity"
    free, _ = run("scenes:count=3", metrics, methods="cdam,daam,rollout", out="a")
    plan = make_plan(explainer, "scenes:count=3", methods="cdam,daam,rollout", metrics=metrics, part_size=4)
    limited = Explainer("scenes", memory_limit=10**6)
    bench(plan, tmp_path / "b", explainer=limited, batch_size=4)
    rows = rows_in(tmp_path / "b")
    assert [{**row, "value": None} for row in rows] == [{**row, "value": None} for row in free]
    a, b = (np.array([row["value"] for row in rows]) for rows in (rows, free))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_one_trace_a_batch_for_all_methods_and_metrics_that_share_it(run, monkeypatch):
    traces, forwards = [], []
    record, scorer = vitscope.passes.record, measured.ModelScorer.__call__

    def counting(anatomy, images, *rest):
        traces.append(len(images))
        return record(anatomy, images, *rest)

    def scored(self, pictures, index):
        forwards.append(len(pictures))
        return scorer(self, pictures, index)

    monkeypatch.setattr(vitscope.passes, "record", counting)
    monkeypatch.setattr(measured.ModelScorer, "__call__", scored)
    run("scenes:count=10", "agcam,daam", part_size=8)
    assert traces == [4, 4, 2]  # both presets share preprocessing and target
    traces.clear()
    run("scenes:count=4", "agcam,abpc:map_of=predicted", out="b", methods="cdam,frame")
    assert traces == [4, 4]  # one for the whole picture squashed, one for the model's own preprocessing
    # 2 methods, 9 steps in two orders; untouched pictures are known from the trace, wholly altered ones are shared
    assert sum(forwards) == 4 * (2 * 2 * 9 + 1)
    assert max(forwards) == 64


def test_what_fails_is_a_row_with_its_error(run, folder):
    rows, outcome = run("masks", "agcam,compactness", folder, methods="cdam,frame")
    names = [*as_metrics("agcam"), *as_metrics("compactness")]
    failed = {(r["image"], r["method"], r["metric"]): r["error"] for r in rows if r["error"]}
    whole = {(image, method, name) for image in "13" for method in ("cdam", "frame") for name in names}
    strange = {("5", method, name) for method in ("cdam", "frame") for name in as_metrics("agcam")}
    assert set(failed) == whole | strange
    assert "not a picture" in failed["1", "cdam", names[0]]
    assert "has no mask for 3.png" in failed["3", "cdam", names[0]]
    assert "class 99 is none of the model's 12 outputs" in failed["5", "frame", names[0]]
    assert all((row["value"] is None) == (row["error"] is not None) for row in rows)
    assert outcome.failed == 3
    assert {row["image"] for row in rows} == set("012345")


@dataclass(frozen=True)
class Blind:
    """A method that has no map of the pictures whose first logit is high."""

    limit: float = 0.0
    facts = Facts("blind", "Blind", "attention", "none", 2026, False, True, "1", "a test's")

    @property
    def needs(self):
        return Needs()

    def __call__(self, trace):
        maps = trace.logits[:, :1, None, None] + torch.linspace(0, 1, 144).view(1, 1, *trace.grid)
        maps = maps.repeat(1, trace.reached.shape[1], 1, 1)
        maps[trace.logits[:, 0] > self.limit] = 1.0
        return Maps(maps)


def test_a_flat_map_is_its_own_pictures_failure(run, explainer, monkeypatch):
    monkeypatch.setitem(registry._METHODS, "blind", Blind)
    logits = explainer([scene.image for scene in Scenes(8)], "attention").logits[:, 0]
    limit = round(float(logits.sort().values[3:5].mean()), 4)
    rows, outcome = run("scenes:count=8", "energy,class_sensitivity", methods=f"cdam,blind:limit={limit}", part_size=8)
    flat = {str(index) for index in (logits > limit).nonzero()[:, 0].tolist()}
    assert {row["image"] for row in rows if row["error"]} == flat
    assert all("flat" in row["error"] and row["method"] != "cdam" for row in rows if row["error"])
    assert outcome.failed == 4
    assert len(rows) == 8 * 2 * 3


def test_a_metric_that_fails_at_one_picture_leaves_the_others(run, monkeypatch):
    from vitscope.metrics import Compactness

    call = Compactness.__call__

    def failing(self, maps, truth):
        if bool((truth.labels == label).any()):
            raise RuntimeError("no such\nnumber")
        return call(self, maps, truth)

    label = open_dataset("scenes:count=8")[5].label
    same = {item.id for item in open_dataset("scenes:count=8") if item.label == label}
    monkeypatch.setattr(Compactness, "__call__", failing)
    rows, _ = run("scenes:count=8", "energy,compactness", methods="cdam", part_size=8)
    bad = {(row["image"], row["metric"].split("/")[0]): row["error"] for row in rows if row["error"]}
    assert bad == {(image, "compactness"): "RuntimeError: no such number" for image in same}
    assert len(rows) == 16


def constant(tensor):
    return bool((tensor == tensor.flatten()[0]).all())


@pytest.mark.parametrize(
    ("name", "kind", "function"),
    [
        ("compactness", "Compactness", "__call__"),
        ("class_sensitivity", "ClassSensitivity", "__call__"),
        ("drop", "AverageDrop", "plan"),
        ("noise:samples=1", "NoiseStability", "compare"),
    ],
)
def test_a_metric_that_fails_at_one_method_leaves_the_others(run, monkeypatch, name, kind, function):
    source = f"scenes:count=3,drawing={np.random.default_rng().integers(1000)}"
    expected, _ = run(source, name, methods="cdam,random", batch_size=1)
    whole = getattr(getattr(vitscope.metrics, kind), function)

    def failing(self, *of):
        maps = of[0][0][0] if function == "compare" else next(one for one in of if isinstance(one, GridMaps)).values
        if constant(maps):
            raise RuntimeError("no constant map")
        return whole(self, *of)

    monkeypatch.setattr(getattr(vitscope.metrics, kind), function, failing)
    rows, outcome = run(source, name, methods="cdam,frame,random", out="p", batch_size=3)
    assert {row["error"] for row in rows if row["method"] == "frame"} == {"RuntimeError: no constant map"}
    others = [row for row in rows if row["method"] != "frame"]
    assert [{**row, "value": None} for row in others] == [{**row, "value": None} for row in expected]
    a, b = (np.array([row["value"] for row in some]) for some in (others, expected))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert outcome.failed == 3


@pytest.mark.parametrize("readers", [0, 1])
def test_a_mask_that_cannot_be_read_fails_only_what_needs_it(run, tmp_path, readers):
    home = mask_folder(tmp_path / "data")
    metrics = "energy,compactness,class_sensitivity"
    expected, _ = run("masks", metrics, home, methods="cdam,frame", out="whole")
    (home / "masks" / "3.png").write_bytes(b"no picture")
    rows, outcome = run("masks", metrics, home, methods="cdam,frame", readers=readers)
    bad = [row for row in rows if row["error"]]
    assert {(row["image"], row["method"], row["metric"]) for row in bad} == {
        ("3", method, "energy/share") for method in ("cdam", "frame")
    }
    assert all("not a picture" in row["error"] and row["target"] is not None for row in bad)
    assert outcome.failed == 1
    kept = [row for row, was in zip(rows, expected, strict=True) if not row["error"]]
    assert repr(kept) == repr([was for row, was in zip(rows, expected, strict=True) if not row["error"]])
    _, outcome = run("masks", "compactness", home, methods="cdam", out="none", readers=readers)
    assert outcome.failed == 0


@pytest.mark.parametrize("metrics", ["curve/best", "curve", "curve/area", "segmentation/miou"])
def test_every_picture_counts_once_in_values_of_a_set(run, tmp_path, metrics):
    """Of eight pictures one cannot be read, one has a mask that cannot, and in one there is nothing."""
    home = mask_folder(tmp_path / "data", 8)
    (home / "images" / "1.png").write_bytes(b"no picture")
    (home / "masks" / "3.png").write_bytes(b"no picture")
    Image.new("L", Image.open(home / "masks" / "5.png").size).save(home / "masks" / "5.png")
    rows, _ = run("masks", metrics, home, methods="cdam,frame")
    assert {(row["image"], row["method"]) for row in rows} == {(str(i), m) for i in range(8) for m in ("cdam", "frame")}
    lines = summarise(tmp_path / "o", resamples=20, write=False).lines
    assert len({(line.method, line.metric) for line in lines}) == len(lines)
    of_set = [line for line in lines if line.over_set]
    assert {line.metric for line in of_set} >= ({metrics} if metrics not in ("curve", "curve/area") else {"curve/best"})
    for line in lines:
        assert (line.n, line.errors, line.undefined, line.missing) == (5, 2, 1, 0)
        assert line.mean is not None


def test_out_of_memory_halves_the_batch_and_says_so(run, monkeypatch):
    trace, sizes, said = traced.maps_of, [], []

    def narrow(explainer, methods, batch, questions):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return trace(explainer, methods, batch, questions)

    expected, _ = run("scenes:count=8", "compactness", out="a", batch_size=2, part_size=8)
    monkeypatch.setattr(traced, "maps_of", narrow)
    rows, outcome = run("scenes:count=8", "compactness", out="b", batch_size=8, part_size=8, say=said.append)
    assert sizes == [8, 4, 2, 2, 2, 2]
    assert said == [
        "out of memory with 8 pictures in a batch; going on with 4",
        "out of memory with 4 pictures in a batch; going on with 2",
    ]
    assert (rows, outcome.failed) == (expected, 0)
    monkeypatch.setattr(traced, "maps_of", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory")))
    rows, outcome = run("scenes:count=3", "compactness", out="c")
    assert outcome.failed == 3
    assert {row["error"] for row in rows} == {
        "memory does not hold this one picture; use a smaller model or another device"
    }


def test_the_true_class_can_be_explained_and_a_class_agnostic_method_keeps_its_map(run, explainer):
    preset = dataclasses.replace(PRESETS["segmentation"], target="label", metrics=("loc", "class_sensitivity"))
    rows, _ = run("scenes:count=6", [preset], methods="cdam,attention")
    scenes = open_dataset("scenes:count=6")
    assert all(row["target"] == scenes[int(row["image"])].label for row in rows if row["metric"] == "loc/mass")
    for item in scenes:
        picture, _ = explainer.preprocessing.replaced(**preset.preprocessing)(item.open().picture)
        attention = explainer(picture[None], "attention")["attention"].values
        mask = torch.from_numpy(item.open().masks.regions[0].mask)[None]
        metric = next(iter(as_metrics("loc").values())).metric
        expected = metric(GridMaps(attention, (96, 96)), Truth(masks=mask)).values["mass"]
        assert values(rows)[item.id, "attention", "loc/mass"] == pytest.approx(float(expected), abs=1e-4)
        assert values(rows)[item.id, "attention", "class_sensitivity/pearson@second"] == pytest.approx(1)
        assert values(rows)[item.id, "cdam", "class_sensitivity/pearson@second"] < 0.9


def test_randomised_models_and_mosaics_are_made_a_part(run, explainer):
    rows, _ = run("scenes:count=2", "sanity,grid_pointing", methods="cdam,frame")
    found = values(rows)
    cascading = [row for row in rows if row["metric"].startswith("sanity/spearman@") and ":" not in row["metric"]]
    depths = [row for row in cascading if row["method"] == "cdam"]
    assert len(depths) == 2 * 14
    for image in map(str, range(2)):
        curve = [row["value"] for row in depths if row["image"] == image]
        assert found[image, "cdam", "sanity/spearman"] == pytest.approx(np.nanmean(curve))
    shares = [found[str(image), "frame", "grid_pointing/share"] for image in range(2)]
    assert sum(not np.isnan(share) for share in shares) in (0, 2)
    assert all(np.isnan(share) or share == pytest.approx(0.25) for share in shares)


def test_two_objects_are_asked_for_each(run):
    rows, _ = run("scenes:count=5,kind=two", "two_objects", methods="cdam,attention")
    found = values(rows)
    for image in map(str, range(5)):
        assert found[image, "attention", "two_objects/preference"] == pytest.approx(0.5)
    assert np.mean([found[str(image), "cdam", "two_objects/preference"] for image in range(5)]) > 0.7


def test_what_the_data_cannot_answer_is_left_out_or_refused(explainer, folder, tmp_path):
    (folder / "labels.csv").unlink()
    plan = make_plan(explainer, "masks", folder, methods="cdam", metrics="energy,abpc")
    assert [task.metric.facts[0].name for group in plan.groups() for task in group.tasks] == ["energy/share"]
    assert all("true class" in reason for reason in plan.skipped().values())
    with pytest.raises(MetricError, match="--images all"):
        make_plan(explainer, "masks", folder, methods="cdam", metrics="agcam")
    with pytest.raises(MetricError, match="agcam and all both measure agcam/"):
        make_plan(explainer, "scenes", methods="cdam", metrics="agcam,all")
    with pytest.raises(MethodError, match="unknown method"):
        make_plan(explainer, "scenes", methods="cdamm")
    with pytest.raises(DatasetError, match="no such folder"):
        make_plan(explainer, "voc", tmp_path / "nowhere")


def test_plans_that_give_other_rows_have_other_hashes(explainer):
    def plan(source="scenes:count=4", **changes):
        return make_plan(explainer, source, **{"methods": "cdam", "metrics": "energy", **changes})

    base = plan()
    others = [
        plan("scenes:count=5"),
        plan("scenes:count=4,drawing=1"),
        plan(methods="cdam,frame"),
        plan(metrics="pointing"),
        plan(metrics="pointing@3"),
        plan(limit=3),
        plan(limit=3, seed=5),
        plan(seed=5),
        plan(asked={"crop_pct": 0.5}),
        plan(part_size=2),
        plan(max_forwards=9),
        dataclasses.replace(base, parameters="0"),
        dataclasses.replace(base, running=Running("bf16")),
        dataclasses.replace(base, running=Running("fp16")),
        dataclasses.replace(base, versions={"torch": "0"}),
        plan(metrics=[dataclasses.replace(PRESETS["segmentation"], images="correct")]),
        plan(metrics=[dataclasses.replace(PRESETS["segmentation"], target="label")]),
        plan(metrics="segmentation"),
    ]
    hashes = [one.hash for one in (base, *others)]
    assert len(set(hashes)) == len(hashes)
    assert plan().hash == base.hash
    assert dataclasses.replace(base, weights="elsewhere").hash == base.hash
    here, there, other = (
        dataclasses.replace(base, dataset={**base.dataset, "root": root}).hash
        for root in ("/a/voc", "/b/voc", "/a/cub")
    )
    assert here == there != other
    assert dataclasses.replace(base, dataset={**base.dataset, "ids": "0"}).hash != base.hash
    assert dataclasses.replace(base, running=Running(channels_last=True, compiled=True)).hash == base.hash
    assert "running" not in deciding(base.describe())  # so that runs from before there was a choice go on
    assert pickle.loads(pickle.dumps(others[-1])) == others[-1]
    parts = dataclasses.replace(base, part_size=3).parts()
    assert [(part.index, part.start, part.stop) for part in parts] == [(0, 0, 3), (1, 3, 4)]


def hash_in(plan):
    """As it is made again of what a manifest holds."""
    return hash_of(deciding(json.loads(json.dumps(plan.describe()))))


def test_a_file_that_an_option_names_decides_by_its_content(explainer, tmp_path):
    root = layouts.voc(tmp_path / "voc")
    numbers = np.random.default_rng().permutation(12)[:2].tolist()

    def plan(where, content):
        file = layouts.text(tmp_path / where, content)
        return make_plan(explainer, f"voc:classes={file}", root, methods="cdam", metrics="energy")

    rows = f"aeroplane,{numbers[0]}\nperson,{numbers[1]}\n"
    first, again = plan("a.csv", rows), plan("b/c.csv", rows)
    swapped = plan("a.csv", f"aeroplane,{numbers[1]}\nperson,{numbers[0]}\n")
    unseen = plan("a.csv", rows + "sofa,3\n")  # no picture has one, but the options are others
    assert first.hash == again.hash == hash_in(first) == hash_in(again)
    assert len({first.hash, swapped.hash, unseen.hash}) == 3
    assert str(tmp_path) not in json.dumps(deciding(first.describe()))
    with pytest.raises(VitscopeError, match="the file of classes= is another than when the run was planned"):
        swapped.open()
    assert unseen.open().ids == again.open().ids
    here = make_plan(explainer, "voc:classes=own", root, methods="cdam", metrics="energy")
    assert "files" not in here.dataset


@pytest.mark.parametrize("change", ["class", "box", "difficult", "annotation", "no mask", "mask", "pixels"])
def test_annotations_decide_and_pixels_do_not(explainer, tmp_path, change):
    def plan(root):
        return make_plan(explainer, "voc:classes=own", root, methods="cdam", metrics="energy")

    first = plan(layouts.voc(tmp_path / "here" / "voc"))
    other = shutil.copytree(tmp_path / "here" / "voc", tmp_path / "there" / "voc")
    assert plan(other).hash == first.hash == hash_in(first)
    home = other / "VOCdevkit" / "VOC2012"
    written = home / "Annotations" / "2007_000042.xml"
    old, new = {
        "class": ("person", "sofa"),
        "box": ("<xmax>20</xmax>", "<xmax>19</xmax>"),
        "difficult": ("<difficult>0", "<difficult>1"),
    }.get(change, ("", ""))
    text = written.read_text()
    assert old in text
    written.write_text("no annotation" if change == "annotation" else text.replace(old, new))
    mask = home / "SegmentationClass" / "2007_000042.png"
    if change == "no mask":
        mask.unlink()
    if change == "mask":
        shutil.copy(mask.with_stem("2007_000033"), mask)
    if change == "pixels":
        layouts.picture(home / "JPEGImages" / "2007_000042.jpg")
    assert (plan(other).hash == first.hash) == (change in ("mask", "pixels"))


def test_drawn_data_is_known_by_its_options(explainer):
    plan = make_plan(explainer, "scenes:count=4", methods="cdam", metrics="energy")
    assert plan.dataset == open_dataset("scenes:count=4").provenance
    assert hash_in(plan) == plan.hash


def test_the_manifests_device_is_the_models(explainer, tmp_path):
    plan = make_plan(explainer, "scenes:count=1", methods="cdam", metrics="energy")
    for name, options in (("given", {"explainer": explainer, "device": "cuda"}), ("loaded", {"device": "cpu"})):
        bench(plan, tmp_path / name, **options)
        told = json.loads((tmp_path / name / "manifest.json").read_text())
        assert (told["device"], told["engine"]) == ("cpu", "local")


def test_how_the_model_is_run_stands_in_the_manifest(explainer, tmp_path):
    low = Explainer("scenes", running=Running("bf16", True))
    rows = []
    for name, one in (("float32", explainer), ("bf16", low)):
        plan = make_plan(one, "scenes:count=3", methods="cdam", metrics="energy,abpc:steps=4")
        bench(plan, tmp_path / name, explainer=one)
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        assert manifest["plan"]["running"] == one.anatomy.running.describe()
        rows.append(values(rows_in(tmp_path / name)))
    assert plan.load().anatomy.running == low.anatomy.running
    assert rows[0].keys() == rows[1].keys()
    assert rows[0] != rows[1]
    averages = [key for key in rows[0] if "@" not in key[2]]  # a curve's points jump where it is steep
    assert max(abs(rows[0][key] - rows[1][key]) for key in averages) < 0.1
    with pytest.raises(VitscopeError, match=r"holds another run \(other running\)"):
        bench(plan, tmp_path / "float32", explainer=low)


def test_another_run_is_refused_and_the_same_one_goes_on_only_when_asked(run, tmp_path, explainer):
    rows, _ = run("scenes:count=6", "energy", part_size=2)
    with pytest.raises(VitscopeError, match=r"holds this run, complete; add --resume"):
        run("scenes:count=6", "energy", part_size=2)
    for resume in (False, True):
        with pytest.raises(VitscopeError, match=r"holds another run \(other presets\)"):
            run("scenes:count=6", "pointing", part_size=2, resume=resume)
    (tmp_path / "o" / "parts" / "part-00001.parquet").write_bytes(b"PAR1 cut off")
    again, outcome = run("scenes:count=6", "energy", part_size=2, resume=True)
    assert (again, outcome.computed) == (rows, 1)
    other, outcome = run("scenes:count=4", "pointing", part_size=2, overwrite=True)
    assert len(other) == 4 * 5
    assert outcome.computed == 2
    foreign: Plan = dataclasses.replace(
        make_plan(explainer, "scenes:count=4", methods="cdam", metrics="energy"), parameters="0"
    )
    with pytest.raises(VitscopeError, match="other weights"):
        foreign.load()


def test_a_full_disk_and_a_folder_that_cannot_be_written_are_one_line(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(VitscopeError, match=r"cannot be written \(Not a directory|File exists"):
        run("scenes:count=2", "energy", out="file")
    expected, _ = run("scenes:count=6", "energy", part_size=2, out="whole")
    fsync, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VitscopeError, match="the disk is full; free some space and run again with --resume"):
        run("scenes:count=6", "energy", part_size=2)
    assert not list((tmp_path / "o" / "parts").glob(".*"))
    monkeypatch.undo()
    rows, outcome = run("scenes:count=6", "energy", part_size=2, resume=True)
    assert rows == expected
    assert outcome.computed == 2


def test_a_full_tmpfs(run, tmp_path):
    (tmp_path / "small").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path / "small"], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        (tmp_path / "small" / "filler").write_bytes(b"0" * 40_000)
        with pytest.raises(VitscopeError, match="the disk is full"):
            run("scenes:count=30", "curve", out="small", part_size=6)
        assert not list((tmp_path / "small" / "parts").glob(".*"))
        for part in (tmp_path / "small" / "parts").glob("*"):
            assert pq.read_table(part).num_rows == 6 * 5 * 103  # whole
        (tmp_path / "small" / "filler").unlink()
        rows, _ = run("scenes:count=3", "energy", out="small", overwrite=True)
        assert len(rows) == 15
    finally:
        subprocess.run(["umount", "--lazy", tmp_path / "small"], check=True)


def test_curves_are_kept_point_by_point(run):
    rows, _ = run("scenes:count=3", "curve", methods="cdam", part_size=4)
    names = {row["metric"] for row in rows}
    assert {"curve/area", "curve/oracle", "curve/iou@0", "curve/iou@0.5", "curve/iou@1"} <= names
    assert len(names) == 2 + 101
