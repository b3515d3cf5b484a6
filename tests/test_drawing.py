"""What is drawn and written beside the passes: no torch operation, no thread of its pool, nothing loaded twice."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFont
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import build
from vitscope import Explainer
from vitscope.datasets import Scenes
from vitscope.images import prepare
from vitscope.report import lens_of
from vitscope.report.folder import write_report
from vitscope.save import panels_of, save_explanation
from vitscope.view import contact
from vitscope.view.palette import table_of
from vitscope.view.text import font

VIEWS = {"detach", "alias", "select", "slice", "view", "unsqueeze", "_to_copy", "_local_scalar_dense", "lift_fresh"}


class NoTorch(TorchDispatchMode):
    """Raises where torch computes; a part of a tensor, and what is said of one image's few outputs, are free."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.partition(".")[0]
        rows = all(one.numel() == max(one.shape, default=1) for one in args if isinstance(one, torch.Tensor))
        if name not in VIEWS and not rows:
            raise AssertionError(f"torch computes {name} of {[tuple(getattr(one, 'shape', ())) for one in args]}")
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def explained():
    """Photographs that are cropped, their explanation by maps of every kind, evidence and lens."""
    images = [Image.fromarray(scene.image).resize((130, 100)) for scene in Scenes(3, seed=4)]
    explainer = Explainer("scenes", preprocessing={"crop_pct": 0.8})
    explanation = explainer(images, "daam,agcam,cdam,attention")
    return explanation, explainer.evidence(images), lens_of(explainer, explanation.subject.batch)


def test_saving_and_reporting_compute_nothing_in_torch(explained, tmp_path):
    explanation, _, lens = explained
    with NoTorch():
        save_explanation(explanation, tmp_path, lens=lens, video="gif")
        assert write_report(tmp_path)


def test_adding_a_method_computes_nothing_in_torch(explained, tmp_path):
    explanation, _, _ = explained
    explanation["daam"].save(tmp_path)
    with NoTorch():
        explanation["cdam"].save(tmp_path)


def test_pages_and_comparisons_compute_nothing_in_torch(explained):
    explanation, evidence, _ = explained
    with NoTorch():
        assert explanation.html(evidence)
        assert explanation._repr_html_()
        rows = [(photo, panels_of(explanation, 0), "x") for photo in explanation.subject.batch.originals[:1]]
        assert contact(rows)


@pytest.mark.parametrize("pictures", [1, 40])
def test_every_form_of_the_lens_is_packed_without_torch(explained, pictures, monkeypatch):
    _, _, lens = explained
    with NoTorch():
        lens.record(0, pictures)
        monkeypatch.setattr("vitscope.report.lens.MOST", 4_000)
        lens.record(0, pictures)


def test_reading_images_computes_nothing_in_torch(tmp_path):
    Image.fromarray(Scenes(1)[0].image).save(tmp_path / "a.png")
    explainer = Explainer(build())
    with NoTorch():
        prepare([str(tmp_path / "a.png")] * 2, explainer.preprocessing)


STARTED = """
import os, sys, torch
from vitscope import Explainer
from vitscope.datasets import Scenes
from vitscope.report import lens_of
from PIL import Image
from vitscope.save import save_explanation
images = [Image.fromarray(scene.image).resize((500, 375)) for scene in Scenes(2, seed=4)]
torch.set_num_threads(1)
explainer = Explainer("scenes")
explanation = explainer(images, "daam,cdam")
lens = lens_of(explainer, explanation.subject.batch)
torch.set_num_threads(4)
before = set(os.listdir("/proc/self/task"))
save_explanation(explanation, sys.argv[1], lens=lens, video="gif")
print(len(set(os.listdir("/proc/self/task")) - before))
torch.ones(1000, 1000).exp().sum()
print(len(set(os.listdir("/proc/self/task")) - before))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux shows them")
@pytest.mark.integration
def test_saving_starts_no_thread_of_torchs_pool(tmp_path):
    said = subprocess.run([sys.executable, "-c", STARTED, tmp_path], capture_output=True, text=True, check=True).stdout
    after_saving, after_torch = map(int, said.split())
    assert after_saving == 0
    assert after_torch > 0  # torch's own operation does start them


@pytest.mark.parametrize(("asked", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
@pytest.mark.integration
def test_the_threads_of_a_commands_passes_sleep_while_they_wait(asked, found):
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "true", **({"OMP_WAIT_POLICY": asked} if asked else {})}
    words = [sys.executable, "-m", "vitscope", "describe", "scenes"]
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stderr
    policies = re.findall(r"OMP_WAIT_POLICY\s*=\s*'(\w+)'", said)
    if not policies:
        pytest.skip("torch's OpenMP does not show its settings")
    assert set(policies) == {found}


def test_fonts_and_palettes_are_loaded_once(explained, tmp_path, monkeypatch):
    explanation, _, _ = explained
    loaded = []
    truetype = ImageFont.truetype
    monkeypatch.setattr(ImageFont, "truetype", lambda *args: loaded.append(args) or truetype(*args))
    font.cache_clear()
    table_of.cache_clear()
    explanation.save(tmp_path)
    assert len(loaded) == len(set(loaded)) <= 10
    assert table_of.cache_info().misses == 2


def test_a_photograph_is_resized_once_for_each_size_it_is_shown_in(explained, tmp_path, monkeypatch):
    explanation, _, _ = explained
    sizes = []
    resize = Image.Image.resize

    def counted(image, size, *args, **kwargs):
        if image.mode == "RGB":
            sizes.append(size)
        return resize(image, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", counted)
    explanation.save(tmp_path)
    series = sum((a.blocks is not None) + (a.heads is not None) for a in explanation.attributions.values())
    assert len(sizes) <= len(explanation) * (1 + series)  # the sheet's, and one a strip


def test_a_gif_is_written_on_request_alone(explained, tmp_path):
    explanation, _, _ = explained
    explanation.save(tmp_path)
    assert not list(tmp_path.rglob("*.gif"))
    explanation.save(tmp_path, video="gif")
    assert len(list(tmp_path.rglob("*.gif"))) == 2 * len(explanation)
