"""`vitscope explain --video` and `Explanation.save(video=...)`: which files there are, and what is said where none."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

import vitscope
from tests.conftest import build, pictures
from vitscope import cli, save
from vitscope.datasets import Scenes
from vitscope.errors import VitscopeError
from vitscope.view import video

iio = pytest.importorskip("imageio.v2", reason="of the extra video")
pytest.importorskip("imageio_ffmpeg", reason="of the extra video")


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Run `vitscope explain scene.png --model scenes --out o ARGUMENTS`; returns exit code, output, error stream."""
    Image.fromarray(Scenes(1, seed=int(np.random.default_rng().integers(99)))[0].image).save(tmp_path / "scene.png")

    def call(*arguments):
        words = [tmp_path / "scene.png", "--model", "scenes", "--out", tmp_path / "o", *arguments]
        monkeypatch.setattr(sys, "argv", ["vitscope", "explain", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return call


def written(folder):
    return sorted(path.name for path in folder.iterdir() if "evolution." in path.name)


@pytest.mark.integration
def test_videos_stand_beside_the_strip_and_in_the_manifest(run, tmp_path):
    code, _, err = run("--methods", "daam,cdam", "--video", "webm", "--video", "gif,mp4")
    assert (code, err) == (0, "")
    folder = tmp_path / "o" / "scene"
    wanted = [f"daam-evolution.{kind}" for kind in ("gif", "mp4", "png", "webm")]
    assert written(folder) == wanted
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert sorted([*listed, "manifest.json"]) == sorted(path.name for path in folder.iterdir())
    with Image.open(folder / "daam-evolution.gif") as gif:
        total, size = 0, gif.size
        for number in range(gif.n_frames):
            gif.seek(number)
            total += gif.info["duration"]
    for kind in ("mp4", "webm"):
        with iio.get_reader(folder / f"daam-evolution.{kind}", format="FFMPEG") as reader:
            about = reader.get_meta_data()
            assert reader.count_frames() / about["fps"] == pytest.approx(total / 1000)
        assert about["size"] == tuple(side + side % 2 for side in size)
    assert run("--methods", "daam,cdam")[0] == 0
    assert written(folder) == wanted  # of the same map
    assert sorted([*json.loads((folder / "manifest.json").read_text())["files"], "manifest.json"]) == sorted(
        path.name for path in folder.iterdir()
    )
    assert run("--methods", "daam,cdam", "--overwrite")[0] == 0
    assert written(folder) == ["daam-evolution.png"]


def test_methods_without_blocks_are_told(run, tmp_path):
    code, _, err = run("--methods", "cdam", "--video", "mp4")
    assert (code, len(err.strip().splitlines())) == (0, 1)
    assert "--video: none of these methods has a map a block" in err
    assert written(tmp_path / "o" / "scene") == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--video", "avi"], "unknown kind of video 'avi'; there are gif, mp4 and webm"),
        (["--video", "mp4,"], "unknown kind of video ''"),
        (["--video", "mp4", "--store", "parquet"], "--video is for pictures"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(run, tmp_path, words, says):
    code, out, err = run(*words)
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
    assert says in err
    assert not (tmp_path / "o").exists()


def test_the_missing_extra_is_named_before_anything_is_computed(run, tmp_path, monkeypatch):
    video._try.cache_clear()
    monkeypatch.setitem(sys.modules, "imageio.v2", None)
    monkeypatch.setattr("vitscope.explainer.Explainer", lambda *args, **kw: pytest.fail("a model was loaded"))
    code, out, err = run("--video", "mp4")
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
    assert 'pip install "vitscope[video]"' in err
    assert not (tmp_path / "o").exists()


@pytest.mark.integration
def test_saving_from_python(tmp_path):
    model = build()
    explanation = vitscope.Explainer(model)(pictures(model, 1), "daam,cdam")
    (folder,) = explanation.save(tmp_path / "a", video=("mp4",))
    assert (tmp_path / "a" / "image-0" / "daam-evolution.mp4").is_file()
    explanation["daam"].save(tmp_path / "b", video="webm")
    assert (tmp_path / "b" / "image-0" / "daam-evolution.webm").is_file()
    with pytest.raises(VitscopeError, match="did you mean webm"):
        explanation.save(tmp_path / "c", video="web")
    assert not (tmp_path / "c").exists()
    assert folder == str(tmp_path / "a" / "image-0")


def test_an_encoder_that_fails_leaves_no_half_file(tmp_path, monkeypatch):
    def half(shown, path, *args):
        path.write_bytes(b"half")
        if path.suffix == ".mp4":
            raise OSError("the encoder libx264 gave no video")

    model = build()
    explanation = vitscope.Explainer(model)(pictures(model, 1), "daam")
    monkeypatch.setattr(save, "animate", half)
    with pytest.raises(VitscopeError, match=r"daam-evolution\.mp4: cannot be written \(the encoder libx264") as caught:
        explanation.save(tmp_path, video="mp4")
    assert "\n" not in str(caught.value)
    assert written(tmp_path / "image-0") == ["daam-evolution.png"]
