"""Every piece of code of docs/bridges.md runs, in the page's order, section by section."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import vitscope

PAGE = Path(__file__).parents[2] / "docs" / "bridges.md"


@pytest.fixture
def run(monkeypatch):
    """Runs the pieces of a section behind those of the beginning, and gives the names that each leaves."""
    monkeypatch.setenv("MPLBACKEND", "agg")

    def of(title):
        beginning, *sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
        (section,) = (text for text in sections if text.startswith(f"{title}\n"))
        names, states = {}, []
        for piece in re.findall(r"```python\n(.*?)```", beginning + section, flags=re.DOTALL):
            exec(piece, names)  # the page's own code
            states.append(dict(names))
        return states

    return of


def test_every_section_is_run():
    assert re.findall(r"^## (.*)", PAGE.read_text(), flags=re.MULTILINE) == ["Captum", "Quantus", "pytorch-grad-cam"]


def test_captum(run):
    _, before, after, tools, grid = run("Captum")
    assert before["attributions"].shape == after["attributions"].shape == (4, 3, 96, 96)
    assert (after["attributions"] < 0).any()
    wanted = vitscope.explain(after["model"], after["images"], "cdam", after["labels"].tolist()).values
    assert torch.equal(grid["grid"][:, 0], wanted)
    torch.testing.assert_close(grid["pixels"], after["attributions"][:, :1], rtol=1e-4, atol=1e-5)
    assert tools["smooth"].shape == (4, 3, 96, 96)
    assert tools["error"].shape == tools["change"].shape == (4,)
    assert (tools["change"] > 0).all()
    assert tools["axes"].images


def test_quantus(run):
    pytest.importorskip("quantus", reason="make test-peers installs it")
    _, before, after, several, agnostic = run("Quantus")
    assert np.shape(before["scores"]) == np.shape(after["scores"]) == (4, 10)
    assert not np.allclose(before["scores"], after["scores"])
    assert several["results"].keys() == {"AG-CAM", "CDAM"}
    np.testing.assert_allclose(agnostic["alike"], 1)


def test_pytorch_grad_cam(run):
    library = pytest.importorskip("pytorch_grad_cam", reason="make test-peers installs it", exc_type=ImportError)
    _, before, after, short = run("pytorch-grad-cam")
    assert isinstance(before["cam"], library.GradCAM)
    assert before["maps"].shape == after["maps"].shape == (4, 96, 96)
    assert not np.allclose(before["maps"], after["maps"], atol=0.1)
    assert np.array_equal(after["maps"], short["maps"])
    assert after["overlay"].shape == (96, 96, 3)
    same = vitscope.bridges.CAM(after["model"], method="gradcam")(after["images"], after["targets"])
    np.testing.assert_allclose(same, before["maps"], atol=2e-3)
