"""File names of another code than UTF-8, as old disks have them: nothing that is written could hold them."""

from __future__ import annotations

import json
import os
import sys

import pyarrow.parquet as pq
import pytest
from PIL import Image

from vitscope.datasets import Scenes, open_dataset
from vitscope.errors import DatasetError
from vitscope.parse import as_unicode, is_unicode, parse_json

ODD, SHOWN = os.fsdecode(b"a\xff.png"), "a\\udcff.png"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no file can be called so")


@pytest.fixture
def folder(tmp_path):
    """One picture whose name is no text, and one that is well."""
    scene = Scenes(1, seed=7)[0]
    for kind, values in (("images", scene.image), ("masks", scene.mask(scene.labels[0]).astype("uint8"))):
        (tmp_path / kind).mkdir()
        for name in (ODD, "ok.png"):
            Image.fromarray(values).save(tmp_path / kind / name)
    return tmp_path


def test_a_picture_is_named_and_the_others_done(run, folder):
    for words in (["explain", "--report"], ["compare"]):
        out = folder / ("o" if words[0] == "explain" else "o.png")
        code, _, err = run(*words, folder / "images", "--model", "scenes", "--methods", "cdam", "--out", out)
        assert code == 1
        assert err.count("\n") == 1
        assert f"{SHOWN}: its name is not UTF-8; rename it" in err
    listed = json.loads((folder / "o" / "manifest.json").read_text())
    assert list(listed["failed"]) == [str(folder / "images" / SHOWN)]
    assert list(listed["written"].values()) == ["ok"]
    assert run("report", folder / "o")[0] == 0


def test_a_row_of_raw_maps_says_it_and_the_run_goes_on(run, folder):
    words = ["explain", folder / "images", "--model", "scenes", "--methods", "cdam", "--store", "parquet"]
    for more in ([], ["--resume"]):
        assert run(*words, *more, "--out", folder / "raw")[0] == 1
        rows = pq.read_table(folder / "raw" / "parts").to_pylist()
        assert {os.path.basename(row["image"]): bool(row["error"]) for row in rows} == {SHOWN: True, "ok.png": False}


def test_a_bank_is_built_of_the_others(run, folder):
    odd = folder / "classes" / os.fsdecode(b"t\xfe")
    for home in (folder / "classes" / "one", odd):
        home.mkdir(parents=True)
        (home / "ok.png").write_bytes((folder / "images" / "ok.png").read_bytes())
    bank = folder / "b.safetensors"
    code, out, err = run("bank", "build", "--root", folder / "classes", "--model", "scenes-ssl", "--out", bank)
    assert code == 1
    assert "its name is not UTF-8" in err
    assert "1 picture" in out
    assert (
        run("explain", folder / "images" / "ok.png", "--model", "scenes-ssl", "--bank", bank, "--out", folder)[0] == 0
    )


def test_a_data_set_with_one_is_refused(folder):
    with pytest.raises(DatasetError, match="is not UTF-8; rename it"):
        open_dataset("masks", folder)
    (folder / "images" / ODD).unlink()
    (folder / "masks" / ODD).unlink()
    assert len(open_dataset("masks", folder)) == 1


@pytest.mark.parametrize("text", [r'{"a": "\ud800"}', r'{"\udfff": 1}', b'["\xed\xa0\x80"]', r'["\ude00\ud83d"]'])
def test_half_a_character_of_json_is_refused(text):
    with pytest.raises(ValueError, match="half a character"):
        parse_json(text)


@pytest.mark.parametrize("text", [r'["\ud83d\ude00"]', '["\N{GRINNING FACE}"]', b'\xef\xbb\xbf["\xf0\x9f\x98\x80"]'])
def test_a_pair_of_them_is_one_character(text):
    assert parse_json(text) == ["\N{GRINNING FACE}"]


def test_a_backslash_that_is_escaped_is_none():
    assert parse_json(r'["\\ud800"]') == [r"\ud800"]


def test_a_name_is_shown_with_its_bytes():
    assert as_unicode(ODD) == SHOWN
    assert as_unicode("ä") == "ä"
    assert not is_unicode(ODD)
    assert is_unicode("ä")
