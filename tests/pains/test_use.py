"""Pains with use: gradients, leaks, speed, installation, evaluation. Each test is named after its pain."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import tomllib
import weakref
from functools import reduce
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode

import vitscope
from tests import state
from tests.conftest import build, pictures
from vitscope.cli import main
from vitscope.methods import as_methods
from vitscope.targets import Predicted
from vitscope.trace import Needs, record

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("frozen", [False, True])
def test_07_frozen_weights_or_no_grad_end_in_an_error(frozen):
    """The same maps, whatever the weights' flags and the mode the user is in; what cannot be done is a sentence."""
    wanted = vitscope.Explainer(build())(pictures(build()), "daam,agcam,cdam,chefer", 1)
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        model = build().requires_grad_(not frozen)
        with mode():
            found = vitscope.Explainer(model)(pictures(model), "daam,agcam,cdam,chefer", 1)
        for label in wanted:
            torch.testing.assert_close(found[label].values, wanted[label].values, rtol=1e-4, atol=1e-7)
        assert all(parameter.requires_grad is not frozen for parameter in model.parameters())
        assert all(parameter.grad is None for parameter in model.parameters())
    with torch.inference_mode():
        model = build()
    with pytest.raises(vitscope.ModelError, match=r"was built under torch\.inference_mode; build or load it outside"):
        vitscope.Explainer(model)


def test_08_hooks_and_memory_are_left_behind():
    """After thirty calls, some of which fail, there are as many tensors and hooks as after three."""

    def alive() -> int:
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    model = build()
    explainer, images = vitscope.Explainer(model), pictures(model)
    before, counts = state.of_model(model), []
    for calls in (3, 27):
        for call in range(calls):
            explainer(images, "daam,agcam,cdam,attention" if call % 10 == 0 else "cdam")
            if call % 10:
                continue
            with pytest.raises(vitscope.TargetError):
                explainer(images, "daam", lambda output: output)
        counts.append(alive())
    assert counts[1] <= counts[0]  # fewer, where a test before left garbage that went meanwhile
    assert not state.changes(before, state.of_model(model))
    gone = weakref.ref(model)
    del model, explainer, before
    gc.collect()
    assert gone() is None


class Transfers(TorchFunctionMode):
    """Counts what would wait for a GPU: values that go to the processor one by one, or as an array."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.cpu) and args[0].numel() > 1:
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_10_maps_are_slow_to_make():
    """One pass of the model for all methods and images, nothing brought to the processor; masks run many at a time."""
    model = build()
    sizes: list[int] = []
    model.patch_embed.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    explainer, images = vitscope.Explainer(model), pictures(model, 8)
    explainer(images, "daam,agcam,cdam,attention")
    sizes.clear()
    explainer(images, "daam,agcam,cdam,attention")
    assert sizes == [8]
    methods = as_methods("daam,agcam,cdam,attention")
    with Transfers() as transfers:
        needs = reduce(Needs.__or__, (method.needs for method in methods.values()))
        trace = record(explainer.anatomy, images, needs, [Predicted()])
        assert all(method(trace).values.shape[0] == 8 for method in methods.values())
    assert transfers.found == []
    sizes.clear()
    explainer(images[:1], "scorecam")
    channels = model.embed_dim
    assert channels <= sum(sizes) <= channels + 4
    assert len(sizes) <= 2 + -(-channels // 8), "Score-CAM's masks go one by one"


def test_18_nobody_can_say_which_method_is_best(tmp_path, monkeypatch, capsys):
    """One command: methods beside baselines that know nothing, each with an interval, in a table and in a file."""
    run = ["--dataset", "scenes:count=12", "--model", "scenes", "--methods", "daam,cdam,trivial", "--metrics", "energy"]
    monkeypatch.setattr(sys, "argv", ["vitscope", "bench", *run, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    page = Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    found = {row["method"]: row for row in summary if row["metric"].startswith("energy/")}
    assert found.keys() == {"daam", "cdam", "random", "center", "frame"}
    for method, row in found.items():
        assert method in page
        assert row["low"] < row["mean"] < row["high"]
        assert row["n"] == 12
    assert found["daam"]["low"] > found["random"]["high"]
    assert {"sanity", "rise", "abpc"} <= {facts.name.split("/")[0] for facts in vitscope.list_metrics()}


EXTRAS = [
    "transformers",
    "open_clip",
    "ray",
    "fastapi",
    "uvicorn",
    "starlette",
    "multipart",
    "python_multipart",
    "imageio",
    "imageio_ffmpeg",
    "h5py",
    "pycocotools",
    "faiss",
    "cv2",
    "tensorflow",
    "quantus",
    "pytorch_grad_cam",
    "pandas",
    "sklearn",
    "skimage",
    "IPython",
]

BARE = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] in {extras!r} else find(name, *rest)
import vitscope
from vitscope.datasets import Scenes
ex = vitscope.Explainer("scenes")([Scenes(1, seed=1)[0].image], "daam,agcam,cdam,attention")
print(len(ex.save({out!r})), "saved")
for model in ("hf/google/vit-base-patch16-224", "open_clip/ViT-B-32:openai"):
    try:
        vitscope.Explainer(model)
    except vitscope.VitscopeError as error:
        print(error)
"""


@pytest.mark.integration
def test_21_installation_fails(tmp_path):
    """The base install explains pictures without any extra; an extra that is missing is named; no version is capped."""
    code = BARE.format(extras=EXTRAS, out=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    saved, transformers, open_clip = done.stdout.splitlines()
    assert saved == "1 saved"
    assert transformers.endswith('pip install "vitscope[hf]"')
    assert open_clip.endswith('pip install "vitscope[clip]"')
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for need in [*project["dependencies"], *chain(*project["optional-dependencies"].values())]:
        assert not re.search(r"<|==|~=", need), need
    assert not any("opencv" in need or "tensorflow" in need for need in project["dependencies"])
