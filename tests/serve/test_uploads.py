"""What strangers send as pictures: the same pixels as from a file, or one line that says why not."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from benchmarks.serve import bomb, encoded
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitscope.errors import FormatError, ImageError, PixelsError, VitscopeError
from vitscope.images import Preprocessing, load_image, prepare
from vitscope.images.load import read_image
from vitscope.report.record import LONGEST
from vitscope.serve import Limits
from vitscope.serve.uploads import FORMATS, LABEL, label_of, read_upload

pytestmark = pytest.mark.integration

PLAIN = Preprocessing((32, 32), "bicubic", 0.9, "center", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def noise(*shape):
    return np.random.default_rng().integers(0, 256, shape, dtype=np.uint8)


def turned(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(noise(20, 30, 3)).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def deep():
    return encoded(Image.fromarray(noise(20, 30).astype(np.uint16) * 257))


def pictures():
    rgb, rgba = Image.fromarray(noise(20, 30, 3)), Image.fromarray(noise(20, 30, 4))
    yield from ((kind, encoded(rgb, kind)) for kind in FORMATS)
    yield from ((f"{kind}, alpha", encoded(rgba, kind)) for kind in ("PNG", "WEBP", "TIFF"))
    yield from ((f"{kind}, turned", turned(kind)) for kind in ("JPEG", "PNG", "WEBP", "TIFF"))
    yield "16 bits", deep()
    yield "CMYK", encoded(rgb.convert("CMYK"), "JPEG")
    yield "palette", encoded(rgb.quantize(9), "GIF")
    yield "1 bit", encoded(rgb.convert("1"), "TIFF")


@pytest.mark.parametrize(("what", "content"), list(pictures()))
def test_an_upload_is_the_same_picture_as_the_file(what, content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    whole = load_image(tmp_path / "file")
    assert read_image(io.BytesIO(content), "a", FORMATS, 600).tobytes() == whole.tobytes()
    batch, wanted = read_upload(io.BytesIO(content), "a", PLAIN, Limits()), prepare(tmp_path / "file", PLAIN)
    assert batch.tensor.equal(wanted.tensor)
    assert batch.geometries == wanted.geometries
    assert batch.originals[0].tobytes() == wanted.originals[0].tobytes()
    assert batch.names == ("a",)


def test_what_waits_of_a_large_picture_is_what_a_page_shows():
    batch = read_upload(io.BytesIO(encoded(Image.fromarray(noise(1000, 2000, 3)))), "a", PLAIN, Limits())
    assert batch.originals[0].size == (LONGEST, LONGEST // 2)
    assert batch.geometries[0].original == (1000, 2000)


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (b"", FormatError, "a: not a picture; send PNG, JPEG, WEBP, GIF, BMP or TIFF"),
        (b"hello" * 1000, FormatError, "a: not a picture; .*"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", FormatError, "a: not a picture; .*"),
        (encoded(Image.new("RGB", (9, 9)), "PPM"), FormatError, "a: not a picture; .*"),
        (encoded(Image.new("RGB", (9, 9)), "PDF"), FormatError, "a: not a picture; .*"),
        (encoded(Image.fromarray(noise(50, 50, 3)))[:900], ImageError, r"a: the file is damaged .*; save it again"),
        (encoded(Image.new("L", (101, 100))), PixelsError, "a: 0.1 megapixels, at most 0.01; scale it down first"),
        (encoded(Image.new("L", (51, 1))), PixelsError, "a: 51 x 1 pixels; the longer side can be 50 times .*"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(content, error, says):
    with pytest.raises(error, match=f"^{says}$"):
        read_upload(io.BytesIO(content), "a", PLAIN, Limits(picture_pixels=10_000))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_by_its_header_and_nothing_is_decoded(kind, monkeypatch):
    small = encoded(Image.new("L" if kind != "WEBP" else "RGB", (120, 100)), kind)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("a pixel was decoded"))
    with pytest.raises(PixelsError, match=r"a: 0\.1 megapixels, at most 0\.01"):
        read_image(io.BytesIO(small), "a", FORMATS, 10_000)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("side", "says"), [(10_000, "100 megapixels"), (20_000, "400 megapixels")])
def test_large_bombs_above_and_far_above_what_pillow_opens(side, says):
    content = io.BytesIO(bomb(side))
    tracemalloc.start()
    with pytest.raises(PixelsError, match=f"{says}, at most 50"):
        read_image(content, "a", FORMATS, 50_000_000)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_bomb_where_warnings_are_errors():
    with pytest.raises(PixelsError, match="100 megapixels, at most 50"):
        read_image(io.BytesIO(bomb()), "a", FORMATS, 50_000_000)


GOOD = [content for _, content in pictures()]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(GOOD), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=30), st.floats(0, 1))
def test_whatever_is_broken_in_a_file_the_answer_is_a_picture_or_one_line(content, changes, kept):
    broken = bytearray(content)
    for place, value in changes:
        broken[int(place * (len(broken) - 1))] = value
    broken = broken[: max(1, int(len(broken) * (1 - kept**8)))]
    line = ""
    try:
        batch = read_upload(io.BytesIO(bytes(broken)), "a.png", PLAIN, Limits(picture_pixels=100_000))
    except ImageError as error:
        line = str(error)
    if line:
        assert line.startswith("a.png: ")
        assert "\n" not in line
        assert "0x" not in line
    else:
        assert batch.tensor.shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("filename", "label"),
    [
        ("cat.png", "cat.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\cat.png", "cat.png"),
        ("a\x00b\nc\u202egnp.exe", "a b c gnp.exe"),
        ("", "picture 3"),
        (None, "picture 3"),
        ("dir/", "picture 3"),
        ("<b>ü—猫.png", "<b>ü—猫.png"),
        ("x" * 500, "x" * (LABEL - 1) + "…"),
    ],
)
def test_a_file_name_is_only_a_label(filename, label):
    assert label_of(filename, 3) == label


def test_limits_are_checked():
    with pytest.raises(VitscopeError, match="pictures is 0"):
        Limits(pictures=0)
    with pytest.raises(VitscopeError, match="Pillow opens no more"):
        Limits(picture_pixels=10**9)
    with pytest.raises(VitscopeError, match="job_seconds"):
        Limits(job_seconds=float("nan"))
