"""`vitscope bench`, `metrics`, `datasets`, and maps in parts, as a user types them."""

from __future__ import annotations

import json
import os
import re
import sys

import pyarrow.parquet as pq
import pytest
from PIL import Image

from vitscope import cli
from vitscope.datasets import Scenes, list_datasets
from vitscope.metrics import PRESETS, list_metrics


@pytest.fixture
def run(capsys, monkeypatch):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["vitscope", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return call


def test_bench_writes_rows_and_goes_on(run, tmp_path):
    words = ["bench", "--dataset", "scenes:count=6", "--model", "scenes", "--methods", "cdam,frame"]
    code, out, err = run(
        *words, "--metrics", "agcam,energy", "--out", tmp_path / "o", "--batch-size", "4", "--part-size", "4"
    )
    assert code == 0, err
    assert str(tmp_path / "o") in out
    assert len(list((tmp_path / "o" / "parts").iterdir())) == 2
    words += ["--part-size", "4"]
    rows = pq.read_table(tmp_path / "o" / "parts").to_pylist()
    assert list(rows[0]) == ["image", "method", "metric", "value", "target", "prediction", "error"]
    assert len([row for row in rows if row["metric"] == "energy/share"]) == 12
    manifest = json.loads((tmp_path / "o" / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert {one["metric"] for one in manifest["metrics"]} == {row["metric"] for row in rows}
    settings = {one["preset"]: one for one in manifest["metrics"]}
    assert settings["agcam"]["preprocessing"]["crop_mode"] == "squash"
    assert (settings["agcam"]["images"], settings["asked"]["images"]) == ("correct", "all")
    code, out, err = run(*words, "--metrics", "agcam,energy", "--out", tmp_path / "o")
    assert code == 2
    assert "add --resume" in err
    code, out, err = run(*words, "--metrics", "agcam,energy", "--out", tmp_path / "o", "--resume")
    assert code == 0
    assert pq.read_table(tmp_path / "o" / "parts").to_pylist() == rows
    changed = ["--target", "label", "--images", "all", "--crop-mode", "center", "--limit", "2", "--overwrite"]
    code, out, err = run(*words, "--metrics", "agcam", "--out", tmp_path / "o", *changed)
    assert code == 0
    told = json.loads((tmp_path / "o" / "manifest.json").read_text())["metrics"][0]
    assert (told["target"], told["images"], told["preprocessing"]["crop_mode"]) == ("label", "all", "center")
    assert len(pq.read_table(tmp_path / "o" / "parts")) == 2 * 2 * 5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--metrics", "agcm"], "unknown metric 'agcm'; did you mean agcam"),
        (["--metrics", "agcam/ioo"], "unknown metric 'agcam/ioo'"),
        (["--methods", "dam"], "unknown method 'dam'"),
        (["--dataset", "cubs"], "no data set is called 'cubs'; did you mean cub"),
        (["--dataset", "voc"], "voc needs a root"),
        (["--dataset", "voc", "--root", "nowhere"], "nowhere: no such folder; expected"),
        (["--dataset", "voc", "--root", "."], r"has no JPEGImages"),
        (["--dataset", "scenes:count=0"], "give a count of 1 or more"),
        (["--target", "cat"], "--target cat: give predicted or label"),
        (["--images", "some"], "--images some: give all or correct"),
        (["--engine", "spark"], "--engine spark"),
        (["--metrics", "two_objects"], "needs masks of two things"),
        (["--out", "/proc/vitscope"], "cannot be written"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(run, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    given = {"--dataset": "scenes:count=2", "--model": "scenes", "--methods": "cdam", "--out": "o"}
    given |= dict(zip(words[::2], words[1::2], strict=True))
    code, out, err = run("bench", *(word for pair in given.items() for word in pair))
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert re.search(says, err)
    assert not os.path.exists("o/manifest.json")


def test_images_that_fail_are_exit_code_1(run, tmp_path):
    (tmp_path / "d" / "images").mkdir(parents=True)
    (tmp_path / "d" / "masks").mkdir()
    for index, scene in enumerate(Scenes(3)):
        Image.fromarray(scene.image).save(tmp_path / "d" / "images" / f"{index}.png")
        Image.fromarray(scene.mask()).save(tmp_path / "d" / "masks" / f"{index}.png")
    (tmp_path / "d" / "images" / "0.png").write_text("no picture")
    words = ["bench", "--dataset", "masks", "--root", tmp_path / "d", "--model", "scenes", "--metrics", "energy"]
    code, _, err = run(*words, "--methods", "cdam", "--out", tmp_path / "o")
    assert code == 1
    assert "1 of 3 images failed, as " in err
    assert len(pq.read_table(tmp_path / "o" / "parts")) == 3


def test_listings(run):
    code, out, _ = run("metrics", "--json")
    listed = json.loads(out)
    assert code == 0
    assert [one["name"] for one in listed["metrics"]] == [facts.name for facts in list_metrics()]
    assert [one["name"] for one in listed["presets"]] == list(PRESETS)
    assert listed["options"]["agcam"]["threshold"]["default"] == 0.5
    code, out, _ = run("metrics")
    assert all(facts.name in out for facts in list_metrics())
    code, out, _ = run("datasets", "--json")
    assert [one["name"] for one in json.loads(out)] == [info.name for info in list_datasets()]
    code, out, _ = run("datasets")
    assert all(info.name in out for info in list_datasets())


def test_maps_in_parts(run, tmp_path):
    (tmp_path / "d").mkdir()
    for index, scene in enumerate(Scenes(3)):
        Image.fromarray(scene.image).save(tmp_path / "d" / f"{index}.png")
    (tmp_path / "d" / "bad.png").write_text("no picture")
    words = ["explain", tmp_path / "d", "--model", "scenes", "--methods", "cdam", "--out", tmp_path / "o"]
    code, _, err = run(*words, "--store", "parquet", "--dtype", "float16")
    assert code == 1
    assert "1 of 4 pictures failed" in err
    assert len(pq.read_table(tmp_path / "o" / "parts")) == 4
    code, _, err = run(*words, "--store", "parquet", "--dtype", "float16", "--resume")
    assert code == 1
    for wrong, says in (
        (["--store", "zarr"], "--store zarr"),
        (["--resume"], "add --store parquet"),
        (["--part-size", "2"], "add --store parquet"),
        (["--store", "parquet", "--dtype", "int8"], "--dtype int8"),
        (["--store", "parquet"], "another run"),
    ):
        code, _, err = run(*words, *wrong)
        assert code == 2
        assert says in err
        assert len(err.strip().splitlines()) == 1
