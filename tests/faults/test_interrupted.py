"""Ctrl-C at any moment: exit code 130, one line, whole files, and the run goes on where it was."""

from __future__ import annotations

import json
import random

import pyarrow.parquet as pq
import pytest

from tests.faults.valid import passing
from vitscope.targets import MemoryBank

pytestmark = pytest.mark.integration

LINES = {
    "maps": "again:--resume explain PICTURES --out OUT --methods cdam --part-size 2 --store parquet --batch-size 2",
    "rows": "again:--resume bench -d scenes:count=6 --metrics energy --methods cdam,random --out OUT --part-size 2",
    "bank": "bank build --root PICTURES --out OUT.safetensors --batch-size 1",
    "pictures": "explain PICTURES --out OUT --methods cdam --batch-size 2",
}
COMMANDS = {kind: tuple(line.split()) for kind, line in LINES.items()}


@pytest.mark.parametrize("kind", sorted(COMMANDS))
@pytest.mark.parametrize("times", [1, pytest.param(25, marks=pytest.mark.slow)])
def test_ctrl_c_at_any_moment_leaves_whole_files(kind, times, pictures, apart, tmp_path):
    out, seed = tmp_path / "o" / "out", random.SystemRandom().randrange(10**6)
    words = [word.replace("PICTURES", str(pictures)).replace("OUT", str(out)) for word in COMMANDS[kind]]
    found = apart("tests.faults.interrupting", out, times, seed, *words, "--model", "scenes")
    told = f"seed {seed}: {found}"
    assert {code for code, _ in found} <= {0, 130}, told
    assert found[-1][0] == 0, told
    assert not any("Traceback" in said for _, said in found), told
    ends = "interrupted; what was written is complete\n"
    assert all(said.endswith(ends) for code, said in found if code == 130), told
    left = [file.name for file in out.parent.rglob("*") if passing(file)]
    if kind in ("maps", "rows"):
        table = pq.read_table(out / "parts")
        rows = list(zip(*(table.column(name).to_pylist() for name in ("image", "method")), strict=True))
        assert len(set(rows)) == len({image for image, _ in rows}) * (1 if kind == "maps" else 2)
        assert len({image for image, _ in rows}) == 6
        assert kind == "rows" or len(rows) == 6
        assert json.loads((out / "manifest.json").read_text())["status"] == "complete"
        assert not left, told
    elif kind == "bank":
        assert len(MemoryBank.load(f"{out}.safetensors")) == 6
        assert not out.with_suffix(".parts").exists()
    else:
        assert len(json.loads((out / "manifest.json").read_text())["written"]) == 6
        assert not left, told
