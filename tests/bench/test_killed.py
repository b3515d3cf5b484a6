"""Runs that are killed at random moments end as those that are not."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from vitscope import Explainer
from vitscope.bench import bench, make_plan
from vitscope.datasets import Scenes

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def killing(out, kills):
    seed = random.SystemRandom().randrange(10**6)
    words = [sys.executable, "-m", "tests.bench.killed", str(out), str(kills), str(seed)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_the_uninterrupted_one(tmp_path, kills):
    killed, partly = killing(tmp_path / "o", kills)
    assert killed >= kills // 2
    assert partly >= kills // 3
    tables = [pq.read_table(tmp_path / name / "parts") for name in ("whole", "o")]
    assert tables[0].equals(tables[1])
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("whole", "o")]
    assert all(manifest["status"] == "complete" for manifest in manifests)
    assert len({manifest["hash"] for manifest in manifests}) == 1
    assert manifests[0]["left_out"] == manifests[1]["left_out"]
    keys = {(row["image"], row["method"], row["metric"]) for row in tables[1].select([0, 1, 2]).to_pylist()}
    assert len(keys) == tables[1].num_rows
    assert not list((tmp_path / "o" / "parts").glob(".*"))


def test_killed_maps_end_as_the_uninterrupted_ones(tmp_path):
    (tmp_path / "pictures").mkdir()
    for index, scene in enumerate(Scenes(40)):
        Image.fromarray(scene.image).save(tmp_path / "pictures" / f"{index}.png")
    (tmp_path / "pictures" / "7.png").write_bytes(b"")
    killing(tmp_path / "maps", 3)
    tables = [pq.read_table(tmp_path / name / "parts") for name in ("w/maps", "maps")]
    assert tables[0].equals(tables[1])
    assert tables[0].num_rows == 80


@pytest.mark.slow
def test_memory_stays_flat_over_many_pictures(tmp_path):
    explainer = Explainer("scenes")
    peaks = []
    for count in (256, 2048):
        plan = make_plan(explainer, f"scenes:count={count}", methods="cdam,frame", metrics="agcam,curve")
        bench(plan, tmp_path / str(count), explainer=explainer)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert peaks[1] < 1.1 * peaks[0]
