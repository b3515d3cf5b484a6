"""vitscope beside other libraries: what needs none of them installed."""

from __future__ import annotations

import contextlib
import json
import sys

import numpy as np
import pytest
import torch
from benchmarks.peer_calls import CALLS, TWINS, Setting
from timm.models.vision_transformer import VisionTransformer

import vitscope
from benchmarks import peer_environments, peer_table, peer_worker, peers
from tests.conftest import TINY
from vitscope.methods import as_methods, list_methods

pytestmark = pytest.mark.integration


@pytest.fixture
def tiny(monkeypatch):
    """timm makes a small model, whatever is asked for; here, not in other processes."""
    make = lambda name, **options: VisionTransformer(**{**TINY, "num_classes": 1000})  # noqa: E731
    monkeypatch.setattr(peer_worker.timm, "create_model", make)


@pytest.fixture
def worker(tiny, tmp_path):
    def build(who, batch=2):
        order = {"name": "any", "size": None, "images": str(tmp_path / "images.npy"), "weights": {}}
        order |= {"threads": torch.get_num_threads(), "samples": 3, "frozen": False}
        if not (tmp_path / "images.npy").exists():
            np.save(order["images"], torch.randn(batch, 3, 32, 32).numpy())
        for twin in ("", *TWINS.values()):
            order["weights"][twin] = str(tmp_path / f"weights-{twin}.pt")
            torch.save(peer_worker.build(twin, "any", None).state_dict(), order["weights"][twin])
        return peer_worker.Worker(who, order)

    return build


def test_what_is_shared_is_vitscopes():
    known = {facts.name for facts in list_methods()}
    for who, calls in CALLS.items():
        assert set("".join(calls).split(",")) <= known or all(set(as_methods(name)) <= known for name in calls), who
        assert calls.keys() <= CALLS["vitscope"].keys(), who
    assert set(CALLS) == {*peer_environments.OURS, *peer_environments.PACKAGES}
    assert set(peers.SHARED) == set(CALLS["vitscope"])


@pytest.mark.parametrize("method", [*CALLS["vitscope"]])
def test_vitscopes_call_of_every_shared_method(worker, method, tmp_path):
    one = worker("vitscope")
    targets = peers.targets_of(one.predict(method)["classes"], 2)
    assert [(b - a) % 1000 for a, b in zip(*targets, strict=True)] == [1, 1]
    assert one.run(method, targets, save=str(tmp_path / "maps.npy"))["seconds"] > 0
    model = one.model(TWINS.get(method, ""))
    last = {"smooth_cdam": "smooth_cdam:at=norm,samples=3", "integrated_cdam": "integrated_cdam:at=norm,steps=3"}
    last |= {"integrated_gradients": "integrated_gradients:steps=3", "smoothgrad": "smoothgrad:samples=3"}
    target = None if method in ("eigencam", "attention") else targets[0]
    found = vitscope.Explainer(model)(one.images, last.get(method, method.split(",")[-1]), target, strict=False)
    for wanted in found.attributions.values():
        assert np.allclose(np.load(tmp_path / "maps.npy"), wanted.values, atol=1e-5)
    assert one.forward(method)["seconds"] > 0


@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients"])
def test_captums_call_gives_vitscopes_maps(worker, method, tmp_path):
    ours, theirs = worker("vitscope"), worker("Captum")
    targets = [[5, 2]]
    files = tmp_path / "ours.npy", tmp_path / "theirs.npy"
    for one, file in zip((ours, theirs), files, strict=True):
        one.run(method, targets, save=str(file))
    assert peer_table.agreement(files[1], files[0]) > 0.999


def test_a_grid_is_found_in_what_was_enlarged():
    maps = torch.randn(2, 4, 6)
    large = torch.nn.functional.interpolate(maps[:, None], scale_factor=16, mode="bilinear")
    inner = slice(1, -1)
    found = peer_worker.on_patches(large[:, 0].numpy(), (4, 6), at_pixels=False)
    weak = np.abs(found - maps.numpy())[:, inner, inner].max()
    assert weak < 0.2 * maps.std()
    nearest = maps.repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert np.allclose(peer_worker.on_patches(list(nearest[:, None].numpy()), (4, 6), at_pixels=False), maps)
    channels = torch.randn(2, 3, 8, 12)
    sums = torch.stack(
        [channels[:, :, r : r + 2, c : c + 2].sum((1, 2, 3)) for r in (0, 2, 4, 6) for c in range(0, 12, 2)]
    )
    assert np.allclose(
        peer_worker.on_patches(channels, (4, 6), at_pixels=True), sums.T.unflatten(1, (4, 6)) / 4, atol=1e-6
    )


@pytest.mark.skipif(not hasattr(peer_worker.os, "fork"), reason="memory is measured in a forked process")
def test_memory_is_that_of_the_call(worker, monkeypatch):
    held = 64 * 2**20

    def hungry(setting: Setting):
        return contextlib.nullcontext(lambda: torch.ones(held // 4).sum())

    monkeypatch.setitem(CALLS["literal"], "daam", hungry)
    found = worker("literal").memory("daam", [[0, 0]])
    assert 0.8 * held < found["call"] - found["forward"] < 1.5 * held


def test_an_environment_that_pip_cannot_fill_says_why(tmp_path, monkeypatch):
    class Told:
        returncode, stderr = 1, "Looking around\nERROR: no such version\nnotice: take a rest\n"

    monkeypatch.setattr(
        peer_environments.venv, "create", lambda home, **_: (home / "lib/python3/site-packages").mkdir(parents=True)
    )
    monkeypatch.setattr(peer_environments.subprocess, "run", lambda *_, **__: Told())
    with pytest.raises(peer_environments.NotInstalledError, match="ERROR: no such version"):
        peer_environments.python_of("obzai", tmp_path)
    (shared,) = tmp_path.rglob("shared.pth")
    assert set(peer_environments.site.getsitepackages()) == set(shared.read_text().split())
    assert peer_environments.python_of("literal", tmp_path) == (sys.executable, "")


@pytest.mark.slow
def test_from_a_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "python_of", lambda who, folder: (sys.executable, "1"))
    words = ["peers.py", "--model", "test_vit", "--methods", "cdam;gradcam", "--who", "vitscope,literal,obzai"]
    words += ["--batch", "2", "--rounds", "2", "--env", str(tmp_path), "--json", str(tmp_path / "found.json")]
    monkeypatch.setattr(sys, "argv", words)
    peers.main()
    rows = {(row["method"], row["who"]): row for row in json.loads((tmp_path / "found.json").read_text())}
    assert set(rows) == {
        ("cdam", "vitscope"),
        ("cdam", "literal"),
        ("cdam", "obzai"),
        ("gradcam", "vitscope"),
        ("gradcam", "obzai"),
    }
    assert rows["cdam", "literal"]["correlation"] > 0.999
    assert rows["cdam", "literal"]["forwards"] > rows["cdam", "vitscope"]["forwards"]
    assert rows["cdam", "literal"]["rounds"] == 2
    assert rows["cdam", "literal"]["peak_mb"] > 0
    assert "ModuleNotFoundError" in rows["cdam", "obzai"]["failed"]
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [*words, "--show"])
    peers.main()
    assert len(capsys.readouterr().out.splitlines()) == 2 + 5


def test_rows_gather_and_print():
    row = {"model": "m", "size": None, "threads": 1, "frozen": False, "batch": 8, "method": "daam", "classes": 10}
    row |= {"samples": None}
    timed = row | {"who": "vitscope", "forwards": 2.345, "low": 2.3, "high": 2.4, "images_per_s": 12.34}
    peak = row | {"who": "vitscope", "peak_mb": 38.2}
    broken = row | {"who": "obzai", "failed": "not installed: no"}
    rows = peer_table.merged([timed], [peak, broken])
    assert len(rows) == 2
    lines = peer_table.table(json.loads(json.dumps(rows))).splitlines()
    assert lines[2] == "| daam, 10 classes | vitscope | 8 | 2.35 | 2.30 to 2.40 | 38 | 12.3 |  |"
    assert lines[3] == "| daam, 10 classes | obzai | 8 | not installed: no | | | | |"
