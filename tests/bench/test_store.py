"""A run's folder: what is begun again is begun whole, and what a kill left goes."""

from __future__ import annotations

import os

import pyarrow as pa
import pytest

from vitscope.bench.plan import Part
from vitscope.bench.store import MANIFEST, PARTS, Store
from vitscope.errors import VitscopeError

TABLE = pa.table({"image": ["a"], "value": [1.0]})
DEAD = 2**22 + 1  # above the highest number of a process


def begun(folder, **options):
    return Store.begin(folder, {"model": "m"}, "0" * 64, **options)


@pytest.mark.parametrize("damage", [b"{", b"[]", b"\xff\xfe", b""])
def test_a_damaged_manifest_is_told_and_written_over(tmp_path, damage):
    store = begun(tmp_path)
    store.write(Part(0, 0, 1), TABLE, {})
    (tmp_path / MANIFEST).write_bytes(damage)
    for resume in (False, True):
        with pytest.raises(VitscopeError, match="add --overwrite to begin again"):
            begun(tmp_path, resume=resume)
    assert begun(tmp_path, overwrite=True).manifest() is None
    assert not list((tmp_path / PARTS).iterdir())


def test_what_is_written_over_leaves_nothing_of_a_run_and_all_that_is_not_its_own(tmp_path):
    store = begun(tmp_path)
    store.write(Part(0, 0, 1), TABLE, {})
    store.write_manifest({"status": "complete"})
    (tmp_path / "tables").mkdir()
    for name in ("tables/abpc.md", "tables/abpc.tex", "summary.csv", "page.html"):
        (tmp_path / name).write_text("of the old run")
    for name in ("tables/mine.txt", "notes.md"):
        (tmp_path / name).write_text("of its owner")
    begun(tmp_path, overwrite=True)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"tables/mine.txt", "notes.md"}


@pytest.mark.parametrize("options", [{}, {"overwrite": True}])
def test_what_a_kill_left_goes_and_what_is_being_written_stays(tmp_path, options):
    begun(tmp_path)
    names = [f".{MANIFEST}", f"{PARTS}/.part-00000.parquet"]
    dead = [tmp_path / f"{name}.{DEAD}.tmp" for name in names]
    living = [tmp_path / f"{name}.{os.getppid()}.tmp" for name in names]
    strange = [tmp_path / ".foo.tmp", tmp_path / PARTS / ".foo.tmp", tmp_path / PARTS / ".tmp"]
    for file in (*dead, *living, *strange):
        file.write_text("")
    begun(tmp_path, **options)
    assert not any(file.exists() for file in dead)
    assert all(file.exists() for file in (*living, *strange))


def test_a_part_of_another_run_is_missing(tmp_path):
    part = Part(0, 0, 1)
    store = begun(tmp_path)
    store.write(part, TABLE, {"images": 1})
    assert store.facts(part) == {"images": 1}
    other = Store(tmp_path, "1" * 64)
    assert other.facts(part) is None
    assert other.missing([part]) == [part]
