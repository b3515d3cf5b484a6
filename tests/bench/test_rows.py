"""Reading a run's parts: every row in its place, whatever the order of parts, and nothing twice."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.bench.made import row, write
from vitscope.bench.names import computations_of
from vitscope.bench.rows import ERROR, NONE, UNDEFINED, VALUE, Rows
from vitscope.errors import VitscopeError


def test_values_stand_where_they_belong_in_any_order(tmp_path):
    rng = np.random.default_rng()
    truth = {(f"i{i}", m, k): rng.normal() for i in range(7) for m in ("a", "b") for k in ("x/p", "x/q")}
    rows = [row(*key, value, target=int(key[0][1])) for key, value in truth.items()]
    rng.shuffle(rows)
    write(tmp_path, [tuple(one) for one in rows], parts=3)
    opened = Rows.open(tmp_path)
    first, second = opened.blocks([["x/p"], ["x/q", "x/p"]])
    assert opened.images == tuple(f"i{i}" for i in range(7))
    for block, names in ((first, ["x/p"]), (second, ["x/q", "x/p"])):
        assert list(block.values) == names
        for name in names:
            for m, method in enumerate(opened.methods):
                assert block.values[name][m].tolist() == [truth[i, method, name] for i in opened.images]
        assert block.targets.tolist() == list(range(7))


def test_scans_in_turn_give_the_same_as_one(tmp_path, monkeypatch):
    write(tmp_path, [row(f"i{i}", "a", name, i * k) for i in range(5) for k, name in enumerate(("x/p", "x/q", "x/r"))])
    groups = [["x/p"], ["x/q"], ["x/r"]]
    whole = [block.values for block in Rows.open(tmp_path).blocks(groups)]
    monkeypatch.setattr("vitscope.bench.rows.BUDGET", 6)
    turns = [block.values for block in Rows.open(tmp_path).blocks(groups)]
    for a, b in zip(whole, turns, strict=True):
        assert {k: v.tolist() for k, v in a.items()} == {k: v.tolist() for k, v in b.items()}


def test_what_is_known_of_an_entry(tmp_path):
    rows = [
        row("i0", "a", "x/p", 1.0),
        row("i1", "a", "x/p", float("nan")),
        row("i2", "a", "x/p", None, error="flat map"),
        row("i3", "a", "x/p", None, error=None),
        row("i4", "a", "x/p", float("inf")),
        row("i5", "b", "x/p", 2.0, error=None),
    ]
    write(tmp_path, rows)
    opened = Rows.open(tmp_path)
    (block,) = opened.blocks([["x/p"]])
    assert block.known["x/p"][0].tolist() == [VALUE, UNDEFINED, ERROR, ERROR, UNDEFINED, NONE]
    assert opened.failed == 2
    assert {(one.error, one.rows) for one in opened.failures} == {("flat map", 1), ("no value was written", 1)}


def test_a_row_twice_is_refused(tmp_path):
    write(tmp_path, [row("i0", "a", "x/p", 1.0), row("i0", "a", "x/p", 1.0)])
    with pytest.raises(VitscopeError, match="1 rows twice"):
        list(Rows.open(tmp_path).blocks([["x/p"]]))


@pytest.mark.parametrize("damage", ["none", "empty", "cut", "columns"])
def test_a_folder_that_is_no_run(tmp_path, damage):
    if damage != "none":
        write(tmp_path, [row("i0", "a", "x/p", 1.0)])
        part = next((tmp_path / "parts").iterdir())
        if damage == "empty":
            write(tmp_path, [])
        elif damage == "cut":
            part.write_bytes(part.read_bytes()[:-9])
        else:
            pq.write_table(pa.table({"image": ["a"]}), part)
    with pytest.raises(VitscopeError, match=r"parts"):
        Rows.open(tmp_path)


def test_names_are_read_as_they_were_written():
    names = ["curve/iou@0.35", "agcam/iou@0.5", "segmentation/.hits", "mif_lif/morf@0.05@blur", "srg/morf@0.5:steps=20"]
    found = {one.group + one.ends: one for one in computations_of([*names, "srg/srg:steps=20", "their/own@3", "plain"])}
    assert found["curve"].points == {"iou": {0.35: names[0]}}
    assert list(found["agcam@0.5"].values) == [names[1]]
    assert found["agcam@0.5"].headline == names[1]
    assert found["segmentation"].parts == [names[2]]
    assert found["mif_lif@blur"].points == {"morf": {0.05: names[3]}}
    assert found["srg:steps=20"].points == {"morf": {0.5: names[4]}}
    assert found["srg:steps=20"].headline == "srg/srg:steps=20"
    assert found["their"].metric is None
    assert list(found["their"].values) == ["their/own@3"]
    assert found["plain"].values == {"plain": None}
