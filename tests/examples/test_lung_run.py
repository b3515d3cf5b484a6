"""The whole example by its command: phantoms to page, and the faults of users in one line each."""

import json
import re

import pytest
import torch
from examples.lung_nodules.__main__ import main
from examples.lung_nodules.page import shown
from examples.lung_nodules.run import QUICK
from examples.lung_nodules.study import SYNTHETIC, read_study
from examples.lung_nodules.tree import write_tree
from PIL import Image
from safetensors.torch import load_file

from tests.browser import watched
from tests.examples.test_lung_maps import several

pytestmark = pytest.mark.integration

TINY = ["--patients", "5", "--epochs", "1"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("lung")
    assert main([*TINY, "--out", str(out)]) == 0
    return out


def test_one_command_leaves_page_tables_numbers_picture_and_model(done):
    results = json.loads((done / "results.json").read_text())
    assert results["patients"] == 5
    assert results["nodules"]["learned"] + results["nodules"]["tested"] + len(results["left_out"]) == 20
    assert results["outputs"] == ["malignancy", *SYNTHETIC]
    assert set(results["maps"]["near"]) >= {"cdam malignancy", "daam texture", "attention", "center", "frame"}
    frame = results["maps"]["within"]["frame"]
    assert 0.02 < frame["mean"] < 0.4
    assert frame["low"] <= frame["mean"] <= frame["high"]
    moved = results["off_middle"]
    assert moved["maps"]["near"]["center"]["mean"] < results["maps"]["near"]["center"]["mean"]
    assert moved["maps"]["near"]["frame"]["mean"] == pytest.approx(results["maps"]["near"]["frame"]["mean"], rel=0.2)
    assert moved["scores"]["views"] == results["scores"]["views"]
    page = (done / "index.html").read_text()
    assert "no medical device" in page
    assert "no medical device" in (done / "results.md").read_text()
    assert Image.open(done / "maps.png").width > 800
    assert load_file(done / "model.safetensors")["head.weight"].shape == torch.Size([7, 128])


def test_the_page_opens_without_asking_for_anything(done, browser):
    with watched(browser) as seen:
        seen.page.goto((done / "index.html").as_uri())
        assert "Lung nodules" in seen.page.title()
        assert seen.said == []
        assert [one for one in seen.asked if not one.startswith(("file:", "data:"))] == []


@pytest.fixture
def damaged(tmp_path):
    """Five patients, of whom one has a truncated slice and one no annotation."""
    root = tmp_path / "LIDC-IDRI"
    write_tree(root, 5, nodules=2)
    file = sorted((root / "PHANTOM-0002").rglob("*.dcm"))[3]
    file.write_bytes(file.read_bytes()[:900])
    next((root / "PHANTOM-0003").rglob("*.xml")).unlink()
    return root


def test_a_scan_that_cannot_be_read_is_named_and_the_others_are_read(damaged):
    study = read_study(damaged)
    assert study.patients == ("PHANTOM-0001", "PHANTOM-0004", "PHANTOM-0005")
    assert len(study.views) + 3 * len(study.left_out) == 3 * 3 * 2
    truncated, unannotated = study.failures
    assert re.search(r"PHANTOM-0002.*\.dcm: ", truncated)
    assert re.search(r"PHANTOM-0003.*no XML below .* annotates it", unannotated)
    assert len(read_study(damaged, limit=1).views) <= 6


@pytest.mark.slow
def test_scans_of_your_own_are_explained_with_the_papers_biomarkers_and_exit_code_1(tmp_path, capsys):
    root, out = tmp_path / "LIDC-IDRI", tmp_path / "out"
    write_tree(root, 6)
    next((root / "PHANTOM-0003").rglob("*.xml")).unlink()
    assert main(["--root", str(root), "--epochs", "1", "--out", str(out)]) == 1
    assert re.search(r"^left out: .*PHANTOM-0003", capsys.readouterr().err, re.MULTILINE)
    results = json.loads((out / "results.json").read_text())
    assert results["patients"] == 5
    assert len(results["outputs"]) == 10
    assert results["expected"] == {}, "what malignancy hangs on is known of phantoms alone"
    assert "What was expected" not in (out / "index.html").read_text()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: root.mkdir(), r"no DICOM file \(\*\.dcm\) in it; expected"),
        (lambda root: write_tree(root, 1, nodules=1), "nodules of one patient only"),
        (lambda root: [f.unlink() for f in write_tree(root, 1, nodules=1).rglob("*.xml")], "no XML below"),
    ],
)
def test_a_root_that_cannot_be_used_is_one_line_and_exit_code_2(tmp_path, capsys, make, words):
    root = tmp_path / "root"
    make(root)
    assert main(["--root", str(root), "--out", str(tmp_path / "out")]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(words, last)


@pytest.mark.parametrize("wrong", [["--patients", "0"], ["--epochs", "-1"], ["--seed", "-2"], ["--what"]])
def test_wrong_use_is_exit_code_2(wrong, capsys):
    with pytest.raises(SystemExit) as caught:
        main(wrong)
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_what_is_shown_has_most_and_least_malignant_and_never_the_same_twice():
    views = several(10)
    picked = shown(views)
    assert len(set(picked)) == 4
    said = [views[index].nodule.ratings["malignancy"] for index in picked]
    assert (said[0], said[1]) == (5, 1)


@pytest.mark.slow
def test_quick_runs_to_the_end(tmp_path):
    assert main(["--quick", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "results.json").read_text())["recipe"]["epochs"] == QUICK.recipe.epochs
