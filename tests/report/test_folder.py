"""Reports of a run's folder, from what explain has written."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.conftest import build
from vitscope import Explainer, VitscopeError
from vitscope.report import folder as folders
from vitscope.report import lens_of
from vitscope.report.folder import write_report


def content(page):
    """What a page holds."""
    (text,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(text)


@pytest.fixture
def saved(tmp_path):
    """Five pictures, explained and saved, with the lens."""
    random = np.random.default_rng()
    images = [Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8)) for _ in range(5)]
    explainer = Explainer(build())
    explanation = explainer(images, "daam,cdam")
    from vitscope.save import save_explanation

    save_explanation(explanation, tmp_path / "out", lens=lens_of(explainer, explanation.subject.batch))
    return tmp_path / "out", explanation


def test_a_folder_becomes_a_page(saved):
    root, explanation = saved
    (page,) = write_report(root)
    assert page == root / "report.html"
    found = content(page)
    assert [one["name"] for one in found["pictures"]] == list(explanation.subject.batch.names)
    assert {one["shared"] for one in found["pictures"]} == set(found["shared"])
    assert found["pictures"][0]["lens"]["form"] == "maps"
    assert not re.search(r'(src|href)="(?!data:)', page.read_text())


def test_one_pictures_folder_becomes_a_page_too(saved):
    root, _ = saved
    (page,) = write_report(root / "image-3")
    assert [one["name"] for one in content(page)["pictures"]] == ["image-3"]


def test_many_pictures_make_several_pages_that_name_each_other(saved, monkeypatch):
    root, _ = saved
    monkeypatch.setattr(folders, "PER_PAGE", 2)
    pages = write_report(root)
    assert [page.name for page in pages] == ["report.html", "report-2.html", "report-3.html"]
    assert [len(content(page)["pictures"]) for page in pages] == [2, 2, 1]
    assert '<a href="report-3.html">5 to 5</a>' in pages[0].read_text()
    assert '<a href="report-2.html" aria-current="page">3 to 4</a>' in pages[1].read_text()


def test_pictures_of_two_models_keep_their_own_classes(saved, tmp_path):
    root, _ = saved
    other = Explainer(build(num_classes=3), labels=vitscope_names("x", "y", "z"))
    picture = tmp_path / "other.png"
    Image.new("RGB", (32, 32), (9, 99, 200)).save(picture)
    other(str(picture), "cdam", 1).save(root)
    found = content(write_report(root)[0])
    classes = [found["shared"][one["shared"]]["classes"] for one in found["pictures"]]
    assert classes[-1] == ["x", "y", "z"]
    assert len(classes[0]) == 7


def vitscope_names(*names):
    from vitscope.targets import ClassNames

    return ClassNames(names)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda file: file.write_text("{"), "cannot be read"),
        (lambda file: file.write_text('{"schema_version": 99, "shared": "ab"}'), "schema version 99"),
        (lambda file: file.write_text('{"schema_version": 1, "shared": "../../x"}'), "shared"),
        (lambda file: file.write_text("[]"), "cannot be read"),
        (lambda file: file.write_text(file.read_text().replace('"shared":"', '"shared":"0')), "No such file"),
    ],
)
def test_a_damaged_record_is_named_and_the_others_are_shown(saved, damage, says):
    root, _ = saved
    damage(root / "image-1" / "view.json")
    said = []
    (page,) = write_report(root, said.append)
    assert len(said) == 1
    assert says in said[0]
    assert "image-1" in said[0]
    assert [one["name"] for one in content(page)["pictures"]] == ["image-0", "image-2", "image-3", "image-4"]


def test_a_folder_without_pictures_is_named(tmp_path):
    with pytest.raises(VitscopeError, match="holds no view"):
        write_report(tmp_path)


def test_paths_stay_at_home(tmp_path):
    """A report is passed on: of the weights' path only the name is in it."""
    record = json.loads(_saved_with(tmp_path, str(tmp_path / "secret" / "weights.pth")).read_text())
    assert record["provenance"]["model"]["weights"] == "weights.pth"


def _saved_with(tmp_path, weights):
    explainer = Explainer(build())
    explainer.source["weights"] = weights
    (folder,) = explainer(Image.new("RGB", (32, 32), (9, 99, 200)), "cdam", 1).save(tmp_path / "o")
    from pathlib import Path

    return Path(folder) / "view.json"
