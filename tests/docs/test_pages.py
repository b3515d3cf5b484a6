"""What the pages show runs, and says what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import vitscope
from tests.targets.test_text import directory  # noqa: F401  a tiny CLIP on the disk
from tests.test_docs import ROOT, script_of
from vitscope.datasets import Scenes
from vitscope.models import load_model

pytestmark = pytest.mark.integration

DOCS = ROOT / "docs"
RUN = (
    "own-target",
    "own-pictures",
    "memory-bank",
    "million-images",
    "signed-maps",
    "failure-signatures",
    "notebooks",
    "scenes",
    "benchmarks",
    "models",
)
FRAGMENTS = ("report", "performance-memory", "performance-precision")
"""Of these, what an explainer, its model and pictures are is taken for known."""
ELSEWHERE = {"adapters", "add-a-dataset", "add-a-method", "add-a-metric", "bridges"}
"""Run in processes of their own by test_docs.py, since they register what they add; bridges by its own test."""
NEEDS_A_SERVER = {"serve"}


@pytest.fixture(scope="module", autouse=True)
def same_weights():
    """Of the tiny CLIP, since some random one may have nothing that speaks for a text."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


@pytest.fixture
def runner(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return script_of("run_page")


def test_every_page_with_code_is_run():
    with_code = {page.stem for page in DOCS.glob("*.md") if re.search(r"^```(python|pycon|sh)", page.read_text(), re.M)}
    assert with_code == {*RUN, *FRAGMENTS, "tutorial", "clip"} | ELSEWHERE | NEEDS_A_SERVER


@pytest.mark.parametrize("page", RUN)
def test_the_blocks_of_a_page_run(runner, page):
    runner.run_page(DOCS / f"{page}.md")


@pytest.mark.parametrize("page", FRAGMENTS)
def test_the_fragments_of_a_page_run(runner, page):
    model = load_model("scenes")
    given = {"vitscope": vitscope, "model": model, "explainer": vitscope.Explainer("scenes")}
    names = runner.run_page(DOCS / f"{page}.md", given={**given, "images": [Scenes(1, seed=7)[0].image]})
    assert isinstance(names["explainer"], vitscope.Explainer)


def test_the_blocks_about_texts_run_with_a_small_clip(runner, directory):  # noqa: F811
    Image.fromarray(Scenes(1, seed=7)[0].image).save("cat.jpg")
    names = runner.run_page(DOCS / "clip.md", {"hf/openai/clip-vit-base-patch32": f"hf/{directory}"})
    assert set(names["maps"]) == {"a cat", "a sofa", "a window"}
    assert names["maps"]["a cat"].shape == names["ex"]["cdam"].values.shape


def test_the_tutorial_runs_but_for_its_benchmark(runner):
    runner.run_page(DOCS / "tutorial.md", wanted=lambda code: "vitscope bench" not in code)
    for written in script_of("make_tutorial").PICTURES.values():
        assert Image.open(written).size[0] > 500


@pytest.mark.slow
def test_the_tutorials_table_is_what_its_benchmark_writes(runner):
    runner.run_page(DOCS / "tutorial.md", wanted=lambda code: "vitscope bench" in code)
    text = (DOCS / "tutorial.md").read_text()
    made = script_of("make_tutorial").with_table(text, Path("table/tables/overview.md").read_text())
    old, new = (re.findall(r"-?\d+\.\d{3}", page) for page in (text, made))
    assert len(old) == len(new) > 40
    assert [float(value) for value in new] == pytest.approx([float(value) for value in old], abs=0.02)
    assert re.sub(r"[\d.-]+", "", made) == re.sub(r"[\d.-]+", "", text), "run python docs/make_tutorial.py"


def test_a_page_that_is_wrong_is_found_out(runner, tmp_path):
    for wrong in (
        "```pycon\n>>> 1 + 1\n3\n```",
        "```python\nassert 1 == 2\n```",
        "```sh\nvitscope describe\n```",
        "```sh exit=1\nvitscope doctor\n```",
    ):
        (tmp_path / "wrong.md").write_text(f"# Wrong\n\n{wrong}\n")
        with pytest.raises(AssertionError):
            runner.run_page(tmp_path / "wrong.md")


def test_blocks_share_names_and_outputs_are_compared(runner, tmp_path):
    page = "```python\na = 2\n```\n\n```pycon\n>>> b = a + 1\n>>> a\n2\n```\n\n```python\nc = b + 1\n```\n"
    (tmp_path / "right.md").write_text(page)
    assert runner.run_page(tmp_path / "right.md")["c"] == 4
    with pytest.raises(AssertionError, match=r"2\.0"):
        runner.run_page(tmp_path / "right.md", {"a = 2": "a = 2.0"})
