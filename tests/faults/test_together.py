"""Several processes on one output folder: no damaged file, no row lost, none twice."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from tests.faults.test_interrupted import COMMANDS
from tests.faults.valid import check, passing
from vitscope.targets import MemoryBank

pytestmark = pytest.mark.integration

WAYS = [
    ("maps", ("--resume",)),
    ("bank", ()),
    *(pytest.param(*way, marks=pytest.mark.slow) for way in (("maps", ()), ("rows", ("--resume",)), ("pictures", ()))),
]


@pytest.mark.parametrize(("kind", "more"), WAYS)
@pytest.mark.parametrize("count", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_processes_on_one_folder_lose_and_double_nothing(kind, more, count, pictures, apart, tmp_path):
    out = tmp_path / "o" / "out"
    out.parent.mkdir()
    words = [word.replace("PICTURES", str(pictures)).replace("OUT", str(out)) for word in COMMANDS[kind]]
    words = [word for word in words if not word.startswith("again:")] + ["--model", "scenes"]
    found = apart("tests.faults.together", tmp_path / "said", count, *words, *more)
    assert any(code == 0 for code, _ in found), found
    assert not any("Traceback" in said for _, said in found), found
    for code, said in found:  # the one that comes second may be refused, in a line
        assert code == 0 or (code == 2 and said.strip().splitlines()[-1].startswith("vitscope: ")), found
    assert check(out.parent) > 0
    if kind == "bank":
        assert len(MemoryBank.load(f"{out}.safetensors")) == 6
        return
    assert not [file for file in out.parent.rglob("*") if passing(file)]
    if kind == "pictures":
        assert len(json.loads((out / "manifest.json").read_text())["written"]) == 6
        return
    table = pq.read_table(out / "parts")
    names = [name for name in ("image", "method", "metric") if name in table.column_names]
    rows = list(zip(*(table.column(name).to_pylist() for name in names), strict=True))
    assert len(rows) == len(set(rows))
    assert len({row[0] for row in rows}) == 6
    assert json.loads((out / "manifest.json").read_text())["status"] == "complete"
