"""Videos, decoded again: the frames, their times and sizes; and what is said where none can be made."""

import base64
import io
import os
import stat
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tests.view.scenes import cropped, photo, smooth
from vitscope.errors import ImageError, VitscopeError
from vitscope.view import animation, global_max, video
from vitscope.view.evolution import animate, cards

iio = pytest.importorskip("imageio.v2", reason="of the extra video")
pytest.importorskip("imageio_ffmpeg", reason="of the extra video")

KINDS = ["mp4", "webm"]


@pytest.fixture(autouse=True)
def anew():
    """Each test tries the encoders itself."""
    video._try.cache_clear()
    yield
    video._try.cache_clear()


def frames(blocks, width=120, height=90):
    return global_max(torch.stack([cropped(smooth(width, height)) * (n + 1) for n in range(blocks)]))


def labels(blocks):
    return [f"block {n + 1}" for n in range(blocks)]


def decoded(path):
    with iio.get_reader(path, format="FFMPEG") as reader:
        return [np.asarray(frame) for frame in reader], reader.get_meta_data()


def psnr(found, wanted):
    return 10 * np.log10(255**2 / np.mean((np.asarray(found, float) - np.asarray(wanted, float)) ** 2))


def within(found, card):
    """The part of a decoded frame that is the picture, without the padding."""
    return found[: card.height, : card.width]


@pytest.mark.parametrize(("kind", "size"), [("mp4", (120, 90)), ("mp4", (60, 449)), ("webm", (97, 131))])
@pytest.mark.integration
def test_the_frames_are_the_cards(tmp_path, kind, size):
    shown = cards(photo(*size, seed=np.random.default_rng().integers(1000)), frames(5, *size), labels(5))
    path = animate(shown, tmp_path / f"a.{kind}")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    found, about = decoded(path)
    assert about["codec"] == {"mp4": "h264", "webm": "vp9"}[kind]
    assert about["pix_fmt"].startswith("yuv420p")
    width, height = shown[0].size
    assert about["size"] == (width + width % 2, height + height % 2)
    assert all(frame.shape[:2] == about["size"][::-1] for frame in found)
    repeats = len(found) // 8  # four blocks, and the last one four times as long
    assert len(found) == 8 * repeats
    assert about["fps"] >= 10
    assert len(found) / about["fps"] == pytest.approx(0.4 * 8)
    for number, card in enumerate(shown):
        for frame in found[number * repeats : (number + 1 if number < 4 else 8) * repeats]:
            assert psnr(within(frame, card), card) > 30
    for number in range(4):
        nearest = max(range(5), key=lambda other: psnr(within(found[number * repeats], shown[0]), shown[other]))
        assert nearest == number


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.integration
def test_what_odd_sizes_add_is_the_border_again(tmp_path, kind):
    rng = np.random.default_rng()
    low = Image.fromarray(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)).resize((131, 93), Image.Resampling.BICUBIC)
    (frame, *_), about = decoded(video.encode([low], tmp_path / f"a.{kind}", 100))
    assert about["size"] == (132, 94)
    assert psnr(frame[:93, :131], low) > 30
    assert psnr(frame[:93, 131], np.asarray(low)[:, 130]) > 26
    assert psnr(frame[93, :131], np.asarray(low)[92]) > 26


@pytest.mark.parametrize(("kind", "milliseconds"), [("mp4", 20), ("mp4", 333), ("webm", 250)])
@pytest.mark.integration
def test_times_are_those_of_the_gif(tmp_path, kind, milliseconds):
    path = animation(photo(), frames(3), labels(3), tmp_path / f"a.{kind}", milliseconds=milliseconds)
    found, about = decoded(path)
    assert len(found) / about["fps"] == pytest.approx(6 * milliseconds / 1000, rel=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_block_is_held(tmp_path, kind):
    shown = cards(photo(), frames(1), labels(1))
    found, about = decoded(animate(shown, tmp_path / f"a.{kind}"))
    assert len(found) / about["fps"] == pytest.approx(1.6)
    assert all(psnr(within(frame, shown[0]), shown[0]) > 30 for frame in found)


def test_an_animation_goes_by_its_name(tmp_path):
    first, *_ = decoded(animation(photo(), frames(2), labels(2), str(tmp_path / "A.MP4")))[0]
    card = cards(photo(), frames(2), labels(2))[0]
    assert psnr(within(first, card), card) > 30
    with Image.open(animation(photo(), frames(2), labels(2), tmp_path / "a.gif")) as gif:
        assert gif.size == card.size
    with pytest.raises(ImageError, match="at least 20"):
        animation(photo(), frames(2), labels(2), tmp_path / "b.mp4", milliseconds=5)


def test_kinds_are_said_as_users_do():
    assert video.usable(()) == ()
    assert video.usable("MP4, webm") == ("mp4", "webm")
    assert video.usable("gif,mp4") == ("gif", "mp4")
    assert video.usable(["webm", "mp4", "webm"]) == ("webm", "mp4")
    with pytest.raises(
        VitscopeError, match=r"unknown kind of video 'wbm'; did you mean webm\?; there are gif, mp4 and"
    ):
        video.usable("mp4,wbm")


def test_the_missing_extra_is_named(monkeypatch, tmp_path):
    for missing in ("imageio.v2", "imageio_ffmpeg"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            with pytest.raises(VitscopeError, match=r'a video \(mp4\) needs imageio .*"vitscope\[video\]"') as caught:
                animation(photo(), frames(2), labels(2), tmp_path / "a.mp4")
            assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def false_ffmpeg(folder, monkeypatch, script):
    """An ffmpeg that does what the script says, after the one that is bundled, as "$FFMPEG"."""
    import imageio_ffmpeg

    bundled = imageio_ffmpeg.get_ffmpeg_exe()
    path = folder / "ffmpeg"
    path.write_text(f"#!/bin/sh\nFFMPEG={bundled}\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(path))


@pytest.fixture
def elsewhere(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "out").mkdir()
    return tmp_path


def test_an_encoder_that_does_not_work_is_told_before_it_is_needed(elsewhere, monkeypatch):
    false_ffmpeg(elsewhere / "bin", monkeypatch, "cat > /dev/null; exit 1")
    with pytest.raises(VitscopeError, match=r"a video \(webm\) cannot be made: .*libvpx-vp9") as caught:
        video.usable("webm")
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(elsewhere / "nothing"))
    with pytest.raises(VitscopeError, match=r"a video \(mp4\) cannot be made"):
        video.usable("mp4")


STOPS = {
    "at once": "exit 1",
    "after some frames": "head -c 1000000 > /dev/null; exit 1",
    "silently, in the midst": """case "$*" in
        *rawvideo*) head -c 2000000 | "$FFMPEG" "$@"; cat > /dev/null;;
        *) exec "$FFMPEG" "$@";;
    esac""",
}


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for ffmpeg")
@pytest.mark.parametrize("how", STOPS)
def test_an_encoder_that_stops_leaves_nothing(elsewhere, monkeypatch, capfd, how):
    false_ffmpeg(elsewhere / "bin", monkeypatch, STOPS[how])
    shown = cards(photo(), frames(3), labels(3))
    with pytest.raises(OSError, match="the encoder libx264 gave"):
        animate(shown, elsewhere / "out" / "a.mp4")
    assert not list((elsewhere / "out").iterdir())
    assert capfd.readouterr().err == ""


PLAYED = """async (source) => {
  const video = document.createElement("video");
  let shown = NaN;  // the time of the frame that is shown: after a seek it may still be another one, or none
  const presented = (_, frame) => { shown = frame.mediaTime; video.requestVideoFrameCallback(presented); };
  video.requestVideoFrameCallback(presented);
  video.muted = true;
  video.src = source;
  await new Promise((done, wrong) => { video.onloadeddata = done; video.onerror = () => wrong(video.error.message); });
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const found = [];
  for (const [start, end] of [[0, 0.4], [0.4, 0.8], [1.2, 1.6]]) {
    await new Promise((done) => { video.onseeked = done; video.currentTime = (start + end) / 2; });
    for (let tries = 0; tries < 600 && !(shown > start - 0.01 && shown < end - 0.01); tries++)
      await new Promise(requestAnimationFrame);
    canvas.getContext("2d").drawImage(video, 0, 0);
    found.push(canvas.toDataURL("image/png"));
  }
  return { duration: video.duration, found };
}"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_browser_plays_it_in_its_true_colours(browser, tmp_path, kind):
    rng = np.random.default_rng()
    patches = rng.choice([10, 90, 170, 245], (3, 3, 4, 3)).astype(np.uint8)
    shown = [Image.fromarray(one).resize((160, 120), Image.Resampling.NEAREST) for one in patches]
    content = animate(shown, tmp_path / f"a.{kind}").read_bytes()
    page = browser.new_page()
    if not page.evaluate(f"document.createElement('video').canPlayType('video/{kind}')"):
        pytest.skip(f"this browser plays no {kind}")
    played = page.evaluate(PLAYED, f"data:video/{kind};base64,{base64.b64encode(content).decode()}")
    page.close()
    assert played["duration"] == pytest.approx(0.4 * 6, abs=0.02)
    for wanted, pixels in zip(patches, played["found"], strict=True):
        found = np.asarray(Image.open(io.BytesIO(base64.b64decode(pixels.partition(",")[2]))).convert("RGB"))
        middles = found[20::40, 20::40].astype(int)
        assert np.abs(middles - wanted).max() < 6  # with another matrix or range: 10 to 30
