"""Any picture comes out right, its pixels are timm's, and maps find the way back to the original."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image
from timm.data import create_transform
from torch.nn import functional as F

from tests.conftest import build
from vitscope.errors import ImageError, ModelError
from vitscope.images import Batch, Geometry, Preprocessing, load_image, prepare

PLAIN = Preprocessing((32, 32), "bicubic", 0.9, "center", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def corner(image: Image.Image) -> tuple[int, ...]:
    return image.getpixel((0, 0))


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        (Image.new("RGB", (4, 3), (10, 20, 30)), (10, 20, 30)),
        (Image.new("RGBA", (4, 3), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 3), (0, 0, 255, 128)), (127, 127, 255)),
        (Image.new("LA", (4, 3), (0, 255)), (0, 0, 0)),
        (Image.new("L", (4, 3), 77), (77, 77, 77)),
        (Image.new("1", (4, 3), 1), (255, 255, 255)),
        (Image.new("CMYK", (4, 3), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("RGB", (4, 3), (0, 200, 0)).convert("P", palette=Image.Palette.ADAPTIVE), (0, 200, 0)),
        (Image.fromarray(np.full((3, 4), 32896, np.uint16)), (128, 128, 128)),
        (Image.fromarray(np.full((3, 4), 65535, np.int32)), (255, 255, 255)),
        (Image.fromarray(np.full((3, 4), 0.5, np.float32)), (128, 128, 128)),
    ],
    ids=lambda value: getattr(value, "mode", ""),
)
def test_every_mode(image, wanted):
    picture = load_image(image)
    assert picture.mode == "RGB"
    assert corner(picture) == wanted


def test_a_transparent_palette_and_sixteen_bits_from_files(tmp_path):
    palette = Image.new("P", (4, 3), 1)
    palette.putpalette([0, 0, 0, 0, 200, 0])
    palette.save(tmp_path / "p.png", transparency=1)
    assert corner(load_image(tmp_path / "p.png")) == (255, 255, 255)
    Image.fromarray(np.full((3, 4), 16448, np.uint16)).save(tmp_path / "deep.png")
    assert corner(load_image(tmp_path / "deep.png")) == (64, 64, 64)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, tmp_path):
    upright = Image.new("RGB", (20, 12))
    upright.paste((255, 0, 0), (0, 0, 10, 6))
    undo = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}.get(orientation, [])
    stored = upright
    for step in undo:  # the transposition that the camera did; the tag tells how to undo it
        stored = stored.transpose(Image.Transpose(step))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "o.png", exif=exif)
    assert load_image(tmp_path / "o.png").tobytes() == upright.tobytes()


def damaged(folder):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "whole.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:1500])
    (folder / "text.jpg").write_text("hello")
    (folder / "empty.png").write_bytes(b"")
    (folder / "folder.png").mkdir()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("truncated.jpg", "damaged or truncated"),
        ("text.jpg", "not a picture"),
        ("empty.png", "is empty"),
        ("folder.png", "a folder"),
        ("missing.png", "no such file"),
    ],
)
def test_bad_files_are_named_in_one_line(name, says, tmp_path):
    damaged(tmp_path)
    with pytest.raises(ImageError, match=says) as caught:
        load_image(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    with pytest.raises(ImageError, match="too many pixels"):
        load_image(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (np.zeros((4, 4, 3), np.float32), "ambiguous"),
        (np.zeros((4, 4, 2), np.uint8), "no picture"),
        (np.zeros((0, 4, 3), np.uint8), "no picture"),
        (7, "no picture"),
        (Image.fromarray(np.full((3, 4), 2.0, np.float32)), "outside 0 to 1"),
        (Image.fromarray(np.full((3, 4), np.nan, np.float32)), "outside 0 to 1"),
    ],
)
def test_bad_arrays_are_answered(source, says):
    with pytest.raises(ImageError, match=says):
        load_image(source)


sides = st.integers(5, 90)


@settings(max_examples=40, deadline=None)
@given(
    sides,
    sides,
    st.sampled_from(["center", "squash", "border"]),
    st.sampled_from([(32, 32), (24, 40)]),
    st.sampled_from([0.6, 0.875, 1.0]),
)
def test_pixels_are_timms_and_the_way_back_is_right(width, height, mode, size, share):
    """A ramp of coordinates goes through the model's own preprocessing; mapped back it must show its own places."""
    rule = Preprocessing(size, "bilinear", share, mode, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    y, x = np.mgrid[:height, :width]
    ramp = np.stack([255 * (x + 0.5) / width, 255 * (y + 0.5) / height, np.full((height, width), 255.0)], -1)
    picture = Image.fromarray(ramp.astype(np.uint8))
    values, geometry = rule(picture)
    theirs = create_transform(
        input_size=(3, *size),
        interpolation="bilinear",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        crop_pct=share,
        crop_mode=mode,
    )(picture)
    assert torch.equal(values, theirs)
    inside = geometry.inside()
    back = torch.stack([geometry.to_original(channel) for channel in values])
    assert torch.equal(torch.isnan(back[0]), ~inside)
    # Away from the picture's rim, where resampling and padding mix in other values.
    core = torch.zeros_like(inside)
    rim = 2 + max(height // 8, width // 8, height // size[0], width // size[1])
    core[rim : height - rim, rim : width - rim] = True
    core &= inside
    for channel, side in ((0, width), (1, height)):
        error = (back[channel] - torch.from_numpy(ramp[..., channel] / 255))[core].abs()
        limit = 1.5 / side + 1.5 / min(geometry.resized) + 2 / 255
        assert error.numel() == 0 or float(error.max()) < limit


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5))
def test_without_a_crop_it_is_plain_interpolation(rows, cols, scale):
    values = torch.rand(rows, cols)
    geometry = Geometry.identity(rows * scale, cols * scale)
    for mode in ("bilinear", "nearest"):
        options = {"align_corners": False} if mode == "bilinear" else {}
        wanted = F.interpolate(values[None, None], scale_factor=scale, mode=mode, **options)[0, 0]
        assert torch.allclose(geometry.to_original(values, mode), wanted, atol=1e-5)


def test_what_was_cut_off_is_outside_not_zero():
    _, geometry = PLAIN(Image.new("RGB", (64, 32)))
    assert geometry.resized == (35, 70)
    shown = geometry.to_original(torch.zeros(4, 4))
    assert torch.isnan(shown[:, 0]).all()
    assert torch.isnan(shown[:, -1]).all()
    assert (shown[2:-2, 18:-18] == 0).all()


def test_overrides_are_checked():
    model = build()
    rule = Preprocessing.of_model(model, crop_pct=1.0, size=48)
    assert (rule.size, rule.crop_pct) == ((48, 48), 1.0)
    assert Preprocessing.of_model(build("non_square")).size == (32, 48)
    for wrong in (
        {"crop_pct": 1.2},
        {"size": 0},
        {"std": (1.0, 0.0, 1.0)},
        {"mean": (0.0,)},
        {"crop_mode": "left"},
        {"interpolation": "magic"},
        {"sise": 3},
    ):
        with pytest.raises(ModelError):
            Preprocessing.of_model(model, **wrong)


def test_any_kind_of_input(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    wanted = prepare(tmp_path / "a.png", PLAIN).tensor
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    for images in (str(tmp_path / "a.png"), pixels, Image.fromarray(pixels), pixels[None], tensor, tensor[None]):
        assert torch.equal(prepare(images, PLAIN).tensor, wanted)
    assert prepare([tmp_path / "a.png", pixels], PLAIN).names == ("a.png", "image-1")
    batch = prepare(pixels, PLAIN)
    assert prepare(batch, PLAIN) is batch
    assert len(Batch.join([batch, batch])) == 2


def test_a_float_tensor_is_explained_as_it_is():
    values = torch.randn(2, 3, 20, 30, dtype=torch.float64)
    batch = prepare(values, PLAIN)
    assert batch.tensor is values
    assert batch.geometries[0] == Geometry.identity(20, 30)
    assert batch.originals[1].size == (30, 20)
    assert len(prepare([values[0], values[1]], PLAIN)) == 2
    shown, _ = PLAIN(Image.new("RGB", (32, 32), (12, 200, 99)))
    assert tuple(PLAIN.denormalise(shown)[3, 3]) == (12, 200, 99)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ([], "no picture to explain"),
        (torch.zeros(2, 4, 8, 8), "no batch of pictures"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "ambiguous"),
        (torch.full((1, 3, 8, 8), torch.nan), "image 0 of the tensor is not finite"),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 9, 8)], "different shapes"),
        (3.5, "float is no picture"),
    ],
)
def test_no_batch_is_answered(images, says):
    with pytest.raises(ImageError, match=says):
        prepare(images, PLAIN)


def test_no_program_is_run_for_a_picture(tmp_path, monkeypatch):
    """EPS is PostScript, which Pillow would hand to Ghostscript under any file name."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: pytest.fail("it was run"))
    file = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(file, format="EPS")
    with pytest.raises(ImageError, match="not a picture in a format"):
        load_image(file)
