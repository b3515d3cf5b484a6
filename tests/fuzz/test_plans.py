"""Damaged folders of runs: gone on with, summed up and shown, or refused in one line."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.fuzz.subjects.plans import PART, Plans, make_runs, use

from tests.fuzz.held import FEW, MANY, holds, line_of
from vitscope import VitscopeError
from vitscope.bench import read_maps
from vitscope.bench.plan import Part
from vitscope.bench.store import Store
from vitscope.bench.summarise import summarise
from vitscope.report.folder import write_report

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_runs(folder)
    return folder


@pytest.mark.parametrize("cases", [FEW, MANY])
def test_damaged_runs_are_used_or_refused_in_one_line(cases, tmp_path):
    counts = holds("plans", cases, tmp_path)
    assert min(counts.values()) > cases / 10


def test_the_fuzzers_runs_are_whole_before_they_are_damaged(tmp_path):
    subject = Plans()
    subject.prepare(tmp_path)
    for kind, home in (("resume", "rows"), ("rows", "rows"), ("maps", "maps"), ("report", "report")):
        use(kind, tmp_path / home, (tmp_path / "rows" / "manifest.json").read_bytes())


@settings(max_examples=60, deadline=None)
@given(JSON, st.sampled_from(["hash", "plan", "status", "left_out", "dataset", "methods", "metrics", ""]))
def test_whatever_a_manifest_says_a_run_is_refused_or_summed_up(runs, content, key):
    file = runs / "rows" / "manifest.json"
    valid = file.read_text()
    known = json.loads(valid)
    try:
        file.write_text(json.dumps({**known, key: content} if key else content))
        for does in (
            lambda: summarise(runs / "rows", resamples=5, write=False),
            lambda: Store.begin(runs / "rows", known["plan"], known["hash"], resume=True),
        ):
            line = line_of(does)
            assert not line or line.isprintable()
    finally:
        file.write_text(valid)


@pytest.mark.parametrize("facts", [None, b"", b"[]", b"{", b"[" * 100_000])
def test_a_part_without_its_facts_is_computed_again(tmp_path, facts):
    store = Store(tmp_path, "0" * 8)
    (tmp_path / "parts").mkdir()
    part = Part(0, 0, 2)
    store.write(part, pa.table({"a": [1]}), {"images": 2})
    assert store.facts(part) == {"images": 2}
    known = {b"vitscope.run": store.hash.encode()} | ({} if facts is None else {b"vitscope.facts": facts})
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata(known), store.path(part))
    assert store.facts(part) is None
    assert store.missing([part]) == [part]


def test_maps_and_rows_of_another_form_are_named(runs):
    for home, reads, changes in (
        ("maps", lambda folder: list(read_maps(folder)), ("rows", pa.nulls(3, pa.int32()))),
        ("rows", lambda folder: summarise(folder, write=False), ("image", pa.nulls(4, pa.string()))),
    ):
        file = runs / home / PART
        valid = file.read_bytes()
        try:
            table = pq.read_table(file)
            name, column = changes
            column = pa.nulls(table.num_rows, column.type)
            pq.write_table(table.set_column(table.column_names.index(name), name, column), file)
            with pytest.raises(VitscopeError, match=r"part-00000.parquet.*(not whole|name no picture)"):
                reads(runs / home)
            pq.write_table(table.drop_columns([name]), file)
            with pytest.raises(VitscopeError, match=r"part-00000.parquet.*(holds no maps|has no column image)"):
                reads(runs / home)
        finally:
            file.write_bytes(valid)


def test_a_record_that_no_page_can_hold_is_left_out(runs):
    (file, *_) = sorted((runs / "report").glob("*/view.json"))
    valid = file.read_text()
    try:
        for broken in (
            valid.replace('"name":"', '"name":"\\ud800'),
            valid.replace('"schema_version":', '"x":1e999,"schema_version":'),
        ):
            assert broken != valid
            file.write_text(broken)
            said = []
            write_report(runs / "report", said.append)
            assert len(said) == 1
            assert "is left out, it cannot be read" in said[0]
    finally:
        file.write_text(valid)
