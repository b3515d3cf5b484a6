import numpy as np
import pytest
import torch
from PIL import Image

from tests.view.scenes import cropped, photo, smooth
from vitscope.errors import ImageError
from vitscope.view import animation, filmstrip, global_max


def flow(blocks, width=120, height=90):
    return global_max(torch.stack([cropped(smooth(width, height)) * (n + 1) for n in range(blocks)]))


def labels(blocks):
    return [f"block {n + 1}" for n in range(blocks)]


@pytest.mark.parametrize(("blocks", "lines"), [(1, 1), (6, 1), (7, 2), (12, 2), (24, 4)])
def test_a_filmstrip_has_six_frames_a_line(blocks, lines):
    strip = filmstrip(photo(), flow(blocks), labels(blocks))
    assert strip.mode == "RGB"
    assert strip.width == 12 + min(blocks, 6) * 236
    assert lines * 190 < strip.height < lines * 215 + 50


def test_a_filmstrip_does_not_rescale_its_frames():
    faint, strong = (np.asarray(filmstrip(photo(), smooth()[None] * k, ["head 1"])).astype(int) for k in (0.1, 1.0))
    nothing = np.asarray(filmstrip(photo(), smooth()[None] * 0, ["head 1"])).astype(int)
    assert 0 < np.abs(faint - nothing).sum() < np.abs(strong - nothing).sum()


def test_signed_heads():
    heads = smooth(signed=True).expand(3, 90, 120)
    assert filmstrip(photo(), heads, ["head 1", "head 2", "head 3"], signed=True).width == 12 + 3 * 236


@pytest.mark.parametrize("blocks", [1, 2, 12])
def test_the_animation_has_its_frames_loop_and_times(tmp_path, blocks):
    path = animation(photo(), flow(blocks), labels(blocks), tmp_path / "a.gif", milliseconds=250)
    with Image.open(path) as gif:
        assert gif.format == "GIF"
        assert gif.n_frames == blocks
        assert blocks == 1 or gif.info["loop"] == 0
        times = []
        for n in range(blocks):
            gif.seek(n)
            times.append(gif.info.get("duration"))
    assert times[:-1] == [250] * (blocks - 1)
    assert times[-1] == 1000 or blocks == 1


@pytest.mark.parametrize("size", [(32, 32), (7, 5), (2000, 1500), (1500, 2000), (2000, 30), (30, 2000), (500, 490)])
def test_no_side_of_an_animation_is_longer_than_512(tmp_path, size):
    path = animation(photo(*size), flow(2, *size), labels(2), str(tmp_path / "a.gif"))
    with Image.open(path) as gif:
        assert max(gif.size) <= 512
        assert max(gif.size) >= 300  # small photographs are enlarged, so that the label can be read


def test_frames_that_are_all_the_same_are_all_kept(tmp_path):
    path = animation(photo(), torch.zeros(30, 90, 120), ["same"] * 30, tmp_path / "a.gif")
    with Image.open(path) as gif:
        assert gif.n_frames == 30


def test_what_does_not_change_does_not_flicker(tmp_path):
    path = animation(photo(), flow(6), labels(6), tmp_path / "a.gif")
    with Image.open(path) as gif:
        outside = []
        for n in range(6):
            gif.seek(n)
            outside.append(np.asarray(gif.convert("RGB"))[:300, :60])
    assert all((frame == outside[0]).all() for frame in outside)


def test_an_all_nan_stack_and_a_grey_photograph(tmp_path):
    grey = photo().convert("L")
    void = torch.full((2, 90, 120), torch.nan)
    animation(grey, void, labels(2), tmp_path / "a.gif")
    assert filmstrip(grey, void, labels(2)).mode == "RGB"


def test_wrong_use_is_named(tmp_path):
    with pytest.raises(ImageError, match="one label a frame"):
        filmstrip(photo(), flow(3), labels(2))
    with pytest.raises(ImageError, match="at least one block"):
        filmstrip(photo(), torch.zeros(0, 90, 120), [])
    with pytest.raises(ImageError, match="to_pixels"):
        filmstrip(photo(), torch.zeros(2, 14, 14), labels(2))
    with pytest.raises(ImageError, match="at least 20"):
        animation(photo(), flow(2), labels(2), tmp_path / "a.gif", milliseconds=5)
