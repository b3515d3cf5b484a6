"""What the documentation shows runs."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

import vitscope
from tests.conftest import build
from tests.datasets import layouts
from vitscope.bench import make_plan
from vitscope.methods import Facts, as_method, as_methods, list_methods
from vitscope.metrics import PRESETS, as_metrics, computations

pytestmark = pytest.mark.integration

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
    script = script_of("make_models")
    assert script.PAGE.read_text() == script.page(), "run python docs/make_models.py"


def test_the_page_of_peers_is_of_the_kept_rows():
    script = script_of("make_peers")
    text = script.PAGE.read_text()
    assert script.page(text, json.loads(script.ROWS.read_text())) == text, "run python docs/make_peers.py"
    assert len(script.WRITTEN.findall(text)) == 5


def test_the_page_of_scale_is_of_todays_costs_and_of_the_kept_runs():
    script = script_of("make_scale")
    runs = json.loads(script.RUNS.read_text())
    assert script.PAGE.read_text() == script.page(runs), "run python docs/make_scale.py"
    most = {script.kind(run): script.images(run) for run in sorted(runs, key=script.images)}
    assert most["rows"] >= 20_000
    assert {run["engine"] for run in runs if script.images(run) >= 20_000} == {"local", "ray"}


def test_forwards_are_counted_from_costs_and_plans():
    script = script_of("make_scale")
    assert script.BASE.flops == pytest.approx(35.1e9, rel=0.02)  # 17.6 GMACs by timm's table
    assert script.method_forwards(["cdam"]) == as_method("cdam").facts.forwards
    (abpc,) = (script.count(metric) for metric in computations(as_metrics(PRESETS["abpc"].metrics)))
    assert (abpc.each, len(abpc.shared)) == (18, 1)  # 9 fractions in both orders; all zeros
    alone, both = (script.metric_forwards(["abpc"], methods) for methods in (["cdam"], ["cdam", "daam"]))
    assert (alone, both) == (19, 37)


def test_the_pages_of_the_methods_are_what_the_script_writes():
    script = script_of("make_methods")
    wanted = script.pages()
    there = {path.name: path.read_text(encoding="utf-8") for path in script.FOLDER.glob("*.md")}
    assert wanted.keys() == {"README.md", *(f"{facts.name}.md" for facts in list_methods())}
    changed = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
    assert not changed, "run python docs/make_methods.py"


def test_every_method_has_its_picture():
    script = script_of("make_methods")
    there = {path.stem: path for path in script.PICTURES.glob("*.webp")}
    assert there.keys() == {"scenes", *(facts.name for facts in list_methods())}, "run python docs/make_methods.py"
    for path in there.values():
        assert path.stat().st_size <= script.LARGEST
        assert Image.open(path).size == (4 * script.SIDE + 3 * script.GAP, script.SIDE + script.LINE)


@pytest.mark.parametrize("name", ["daam", "attention", "frame"])
def test_the_picture_of_a_method_is_what_the_script_draws(name, tmp_path, monkeypatch):
    script = script_of("make_methods")
    monkeypatch.setattr(script, "PICTURES", tmp_path)
    drawn = script.draw_maps(vitscope.Explainer("scenes"), as_method(name))
    script.save(drawn, name)
    again = script.draw_maps(vitscope.Explainer("scenes"), as_method(name))
    assert np.array_equal(np.asarray(drawn), np.asarray(again))
    kept = Image.open(script.HERE / "methods" / "pictures" / f"{name}.webp")
    coarse = [np.asarray(picture.convert("RGB").reduce(12), dtype=float) for picture in (kept, drawn)]
    assert np.abs(coarse[0] - coarse[1]).mean() < 1.1, "run python docs/make_methods.py"  # two methods': 1.5 and more


def test_only_dear_methods_with_a_budget_are_drawn_cheaply():
    @dataclass(frozen=True)
    class Dear:
        max_forwards: int | None = None
        facts: ClassVar[Facts] = Facts("dear", "", "perturbation", "", 2018, False, True, "4000", "")

    script = script_of("make_methods")
    assert script.cheap(Dear()) == Dear(max_forwards=script.BUDGET)
    assert all(
        script.cheap(method) == method
        for method in as_methods("all").values()
        if method.facts.forwards < script.DEAR or not hasattr(method, "max_forwards")
    )


def test_prose_is_set_as_it_is_read():
    script = script_of("make_methods")
    assert script._plain("A~_b <x> `a_b` *") == r"A\~\_b \<x> `a_b` \*"
    cases = {
        "arXiv 2312.02364": "[arXiv 2312.02364](https://arxiv.org/abs/2312.02364)",
        "CVPR 2021, arXiv 2012.09838": "CVPR 2021, [arXiv 2012.09838](https://arxiv.org/abs/2012.09838)",
        "doi 10.1109/TIP.2021.3089943": "[doi 10.1109/TIP.2021.3089943](https://doi.org/10.1109/TIP.2021.3089943)",
        "github.com/a/b": "[github.com/a/b](https://github.com/a/b)",
        "a blog_post": r"a blog\_post",
    }
    for paper, wanted in cases.items():
        assert script._paper(Facts("x", "", "cam", paper, 2020, False, True, "1", "")) == wanted


def test_the_papers_commands_are_plans(tmp_path):
    """On tiny folders in the same layouts."""
    laid = {
        "imagenet": layouts.imagenet_csv,
        "voc": layouts.voc,
        "cub": layouts.cub,
        "imagenet-segmentation": lambda root: layouts.gtsegs(root / "gtsegs.mat") and root / "gtsegs.mat",
    }
    text = (ROOT / "examples" / "imagenet.md").read_text().replace("\\\n", " ")
    (methods,) = re.findall(r"^METHODS=(\S+)$", text, flags=re.MULTILINE)
    explainer = vitscope.Explainer(build(num_classes=1000))
    commands = re.findall(r"^vitscope bench .*$", text, flags=re.MULTILINE)
    assert len(commands) >= 6
    for number, command in enumerate(commands):
        words = command.replace("$METHODS", methods).split()
        asked = dict(zip(words[2::2], words[3::2], strict=True))
        folder = tmp_path / str(number)
        folder.mkdir()
        kind = asked["--dataset"].partition(":")[0]
        made = laid[kind](folder)
        root = made if isinstance(made, Path) and kind == "imagenet-segmentation" else folder
        plan = make_plan(
            explainer, asked["--dataset"], root, methods=asked["--methods"].split(","), metrics=asked["--metrics"]
        )
        assert plan.groups, command


def script_of(name):
    """A script of docs/ as a module, imported once."""
    for extra in ("transformers", "open_clip"):  # whose models are in the table
        pytest.importorskip(extra)
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
        sys.modules[name] = script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
    return sys.modules[name]


def test_the_readmes_methods_exist():
    for words in re.findall(r"--methods ([^\s`]+)", (ROOT / "README.md").read_text()):
        assert as_methods(words)


@pytest.mark.parametrize(
    "page", [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md"], ids=str
)
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
