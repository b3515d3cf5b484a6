"""What the documentation shows runs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vitscope.methods import as_methods

ROOT = Path(__file__).parents[1]


def test_the_method_of_the_how_to_page_works(tmp_path):
    """In a process of its own, since it registers a method."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "add-a-method.md").read_text(), flags=re.DOTALL)
    use = """
import vitscope
from tests.conftest import build, pictures
model = build()
assert vitscope.explain(model, pictures(model), "value_norm").values.shape == (2, 4, 4)
assert "value_norm" in str(vitscope.describe(model))
"""
    (tmp_path / "page.py").write_text(code + use)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "page.py")],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_metric_of_the_how_to_page_works(tmp_path):
    """In a process of its own, since it registers a metric."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "add-a-metric.md").read_text(), flags=re.DOTALL)
    use = """
import torch
from vitscope.metrics import as_metrics
((name, chosen),) = as_metrics("top@2").items()
assert name == "top/share@2"
masks = torch.zeros(1, 8, 8, dtype=torch.bool)
masks[:, :4, :4] = True
result = chosen.metric(GridMaps(torch.tensor([[[9.0, 1.0], [5.0, 2.0]]]), (8, 8)), Truth(masks=masks))
assert result.values["share"].item() == 0.5
"""
    (tmp_path / "page.py").write_text(code + use)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "page.py")],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_table_of_models_is_what_the_script_computes():
    for extra in ("transformers", "open_clip"):
        pytest.importorskip(extra)
    spec = importlib.util.spec_from_file_location("make_models", ROOT / "docs" / "make_models.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text() == script.page(), "run python docs/make_models.py"


def test_the_readmes_methods_exist():
    for words in re.findall(r"--methods (\S+)", (ROOT / "README.md").read_text()):
        assert as_methods(words)


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md"], ids=str)
def test_links_between_pages_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_the_home_made_model_of_the_how_to_page_is_explained(tmp_path):
    pieces = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adapters.md").read_text(), flags=re.DOTALL)
    layout = pieces[1]
    assert len(layout[layout.index("layout =") :].strip().splitlines()) <= 15
    names = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for piece in pieces:
            exec(piece, names)  # the page's own code
    explainer = names["explainer"]
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    ex = explainer(images, "daam,agcam,cdam,smooth_cdam:samples=3,integrated_cdam:steps=4,attention")
    assert all(attribution.values.shape == (2, 4, 4) for attribution in ex.attributions.values())
    assert explainer.description_error < 1e-5


def test_the_data_set_of_the_how_to_page_works(tmp_path):
    """In a process of its own, since it registers a data set."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "add-a-dataset.md").read_text(), flags=re.DOTALL)
    use = f"""
from PIL import Image
from vitscope.datasets import list_datasets, open_dataset
Image.new("RGB", (8, 6)).save({str(tmp_path / "one.png")!r})
(item,) = open_dataset("one-class:label=207", {str(tmp_path)!r}, limit=100, seed=1)
assert item.label == 207 and item.open().picture.size == (8, 6)
assert "one-class" in [info.name for info in list_datasets()]
"""
    (tmp_path / "page.py").write_text(code + use)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "page.py")],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
