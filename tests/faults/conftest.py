"""Pictures, and commands run in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vitscope import cli
from vitscope.datasets import Scenes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of six scenes, and each again in a class's folder below it."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, scene in enumerate(Scenes(6)):
        (folder / f"class{index % 3}").mkdir(exist_ok=True)
        for place in (folder / f"{index}.png", folder / f"class{index % 3}" / f"{index}.png"):
            Image.fromarray(scene.image).save(place)
    return folder


@pytest.fixture
def apart():
    """Run a module of these tests in a process that has not computed anything, with more variables; its JSON."""

    def run(module, *words, **more):
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}
        line = [sys.executable, "-m", module, *map(str, words)]
        done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return json.loads(done.stdout)

    return run


@pytest.fixture
def run(capsys, monkeypatch):
    """Run `vitscope ARGUMENTS` here; exit code, output, error stream."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["vitscope", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return call
