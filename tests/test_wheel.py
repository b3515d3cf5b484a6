"""What pip installs is whole: the bundled models, the page's template, the command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[1]

SCRIPT = """
import socket
def refuse(*args): raise AssertionError("the network was asked")
socket.socket.connect = refuse
import vitscope
from vitscope.datasets import Scenes
from vitscope.targets import MemoryBank
assert vitscope.__file__.startswith({folder!r}), vitscope.__file__
image = Scenes(1, seed=1)[0].image
for name in ("scenes", "scenes-ssl", "scenes-shortcut", "scenes-windows"):
    print(name, vitscope.Explainer(name)([image], "attention")["attention"].values.shape)
print(len(MemoryBank.load("scenes-ssl")))
from vitscope.view.page import page
assert "title" in page("title", [], [])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    pytest.importorskip("hatchling", reason="the wheel is built with hatchling, of the dev extra")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 25_000_000
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def test_bundled_models_work_offline_from_an_installed_wheel(installed, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(folder=str(installed))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("torch.Size([1, 12, 12])") == 3
