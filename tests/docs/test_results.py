"""The page of results: a run that is kept goes on where it was kept, and the tables say what the rows say."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.bench.made import mask_folder, rows_of_values, write
from tests.test_docs import script_of
from vitscope import Explainer
from vitscope.bench import bench, make_plan


@pytest.fixture(scope="module")
def script():
    return script_of("make_results")


@pytest.fixture(scope="module")
def explainer():
    return Explainer("scenes")


def rows_in(folder):
    found = pq.read_table(folder / "parts").to_pylist()
    return {(row["image"], row["method"], row["metric"]): row["value"] for row in found}


def test_a_kept_run_goes_on_elsewhere(script, explainer, tmp_path):
    def plan(root):
        return make_plan(explainer, "masks", root, methods="cdam,frame", metrics="energy,compactness", part_size=2)

    whole, kept, pictures = tmp_path / "run", tmp_path / "kept", mask_folder(tmp_path / "here" / "mine")
    bench(plan(pictures), whole, explainer=explainer)
    script.keep(whole, kept)
    assert str(tmp_path) not in (kept / "manifest.json").read_text()
    assert {name for _, _, name in rows_in(kept)} == {"energy/share", "compactness/share@0.05"}
    assert rows_in(kept).items() <= rows_in(whole).items()

    elsewhere = shutil.copytree(pictures, tmp_path / "there" / "mine")
    lost = kept / "parts" / "part-00001.parquet"
    lost.unlink()
    before = {path: path.stat().st_mtime_ns for path in (kept / "parts").iterdir()}
    bench(plan(elsewhere), kept, explainer=explainer, resume=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    mine = pq.read_table(lost).to_pylist()
    assert mine
    for row in mine:
        assert row["value"] == pytest.approx(rows_in(whole)[row["image"], row["method"], row["metric"]])


def test_a_run_that_is_not_finished_is_kept_as_far_as_it_is(script, explainer, tmp_path):
    plan = make_plan(explainer, "scenes:count=6", methods="cdam", metrics="energy", part_size=2)
    bench(plan, tmp_path / "run", explainer=explainer)
    (tmp_path / "run" / "parts" / "part-00000.parquet").unlink()
    script.keep(tmp_path / "run", tmp_path / "kept")
    assert sorted(path.name for path in (tmp_path / "kept" / "parts").iterdir()) == [
        "part-00001.parquet",
        "part-00002.parquet",
    ]


@pytest.fixture
def both(script, tmp_path):
    """Runs of three methods on forty pictures: b is better than a on the photographs, worse on the scenes."""
    name = script.VALUES["compactness"][0].name
    low, middle, high = (start + np.random.default_rng().uniform(0, 0.1, 40) for start in (0.1, 0.4, 0.8))
    manifest = {"plan": {"model": "m", "dataset": {"dataset": "d"}}}
    for side, (a, b) in {"photographs": (low, high), "scenes": (high, low)}.items():
        write(tmp_path / side, rows_of_values(name, {"a": a, "b": b, "c": middle}), manifest=manifest)
    return script.sides(tmp_path, ""), (low, middle, high)


def test_a_table_says_what_the_rows_say(script, both):
    known, (low, middle, high) = both
    text = script.section(script.VALUES["compactness"][0], known)
    found = {
        label: [float(re.match(r"(?:\*\*|<u>)?([\d.]+)", cell.strip())[1]) for cell in cells]
        for label, *cells in re.findall(r"^\| (a|b|c) \| ([^|]+) \| ([^|]+) \|", text, flags=re.MULTILINE)
    }
    wanted = {"a": [low, high], "b": [high, low], "c": [middle, middle]}
    assert found == {label: [round(side.mean(), 3) for side in sides] for label, sides in wanted.items()}
    assert "Spearman -1.00. Of 3 pairs of methods, 3 are told apart on both; 0 of these the same way" in text
    assert "On the photographs" in text
    assert all(f"{better} over {worse}" in text for better, worse in ("ba", "ca", "bc"))


@pytest.mark.integration
def test_the_page_is_of_the_kept_rows(script):
    """The numbers of one table, from the rows that lie beside the page."""
    name = script.VALUES["compactness"][0].name
    rows = pq.read_table(script.KEPT / "scenes" / "parts").to_pylist()
    mine = [row["value"] for row in rows if (row["method"], row["metric"]) == ("agcam", name) and not row["error"]]
    section = script.PAGE.read_text().partition(f"`{name}`")[2]
    line = re.search(r"^\| agcam \| .*$", section, flags=re.MULTILINE)[0]
    assert f"{np.mean(mine):.3f}" in line.split("|")[3], "run python docs/make_results.py"


@pytest.mark.integration
def test_what_methods_are_warned_of_is_of_the_kept_rows(script):
    assert json.loads(script.SURVIVAL.read_text()) == json.loads(script.survival(script.sides(script.KEPT, "-sanity")))


@pytest.mark.integration
def test_what_few_samples_showed_is_said_of_no_method(script):
    """RISE with 20 masks is not RISE."""
    both = script.sides(script.KEPT, "-sanity")
    assert all("rise" in side.of(script.VALUES["sanity"][0].name) for side in both)
    for told in json.loads(script.survival(both)).values():
        assert "rollout" in told
        assert not {"rise", "scorecam", "tis", "smoothgrad", "integrated_gradients"} & {
            label.partition(":")[0] for label in told
        }
