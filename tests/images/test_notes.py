"""Values of fewer bits than a file stores, and frames that are not read: by the header where it says so, else noted."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import zlib
from struct import pack

import numpy as np
import pytest
from PIL import Image

import vitscope
from vitscope import cli
from vitscope.errors import ImageError
from vitscope.images import Preprocessing, ReadAhead, load_image, prepare
from vitscope.images.load import read_image
from vitscope.images.notes import collected

HOW = Preprocessing((32, 32), "bilinear", 1.0, "squash", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
RAMP = np.tile(np.arange(256, dtype=np.uint16), (16, 1))
DARK = "comes out nearly black"


def chunk(kind: bytes, content: bytes) -> bytes:
    return pack(">I", len(content)) + kind + content + pack(">I", zlib.crc32(kind + content))


def png(values: np.ndarray, significant: bytes | None = None) -> bytes:
    """A 16-bit PNG, grey (H W) or in colours (H W C), with the chunk sBIT."""
    height, width, channels = *values.shape[:2], 1 if values.ndim == 2 else values.shape[2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
        + (b"" if significant is None else chunk(b"sBIT", significant))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(values: np.ndarray, **tags: int) -> bytes:
    out = io.BytesIO()
    numbers = {"MaxSampleValue": 281, "SMaxSampleValue": 341}
    Image.fromarray(values).save(out, "TIFF", tiffinfo={numbers[key]: value for key, value in tags.items()})
    return out.getvalue()


def white_is_zero(content: bytes) -> bytes:
    """The same grey TIFF with PhotometricInterpretation 0, which Pillow does not write for such values."""
    entry = pack("<HHI", 262, 3, 1)
    assert content.count(entry + pack("<I", 1)) == 1
    return content.replace(entry + pack("<I", 1), entry + pack("<I", 0))


def packed_tiff(values: np.ndarray) -> bytes:
    """A grey TIFF of 12 bits a value, two in three bytes."""
    first, second = values[:, ::2].astype(np.uint32), values[:, 1::2].astype(np.uint32)
    three = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(np.uint8).tobytes()
    entries = [(256, values.shape[1]), (257, len(values)), (258, 12), (259, 1), (262, 1), (273, 0), (277, 1)]
    entries += [(278, len(values)), (279, len(three))]
    start = 8 + 2 + 12 * len(entries) + 4
    fields = b"".join(pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in entries)
    return b"II*\0" + pack("<IH", 8, len(entries)) + fields + pack("<I", 0) + three


def ppm(values) -> bytes:
    """Colour values of 16 bits."""
    return f"P6 {values.shape[1]} {values.shape[0]} 65535\n".encode() + values.astype(">u2").tobytes()


def read(content: bytes, folder, caplog, name="deep"):
    """The brightest value that is read, and what is said of it."""
    (folder / name).write_bytes(content)
    caplog.clear()
    return int(np.asarray(load_image(folder / name)).max()), " ".join(caplog.messages)


@pytest.mark.parametrize(
    ("content", "brightest"),
    [
        (png(RAMP * 16 + 15, b"\x0c"), 255),
        (png(RAMP * 64 + 63, b"\x0e"), 255),
        (png(RAMP * 16 + 15, b"\x0b"), 16),
        (tiff(RAMP * 16 + 15, MaxSampleValue=4095), 255),
        (tiff(RAMP * 16 + 15, SMaxSampleValue=4095), 255),
        (tiff(RAMP * 15 + 1, MaxSampleValue=3826), 238),
        (tiff(RAMP * 64 + 63, MaxSampleValue=2**14 - 1), 255),
        (tiff(RAMP * 128 + 1, MaxSampleValue=255 * 128 + 1), 127),
        (packed_tiff(RAMP * 16 + 15), 255),
        (packed_tiff(RAMP * 8 + 7), 127),
    ],
    ids=["sBIT 12", "14", "wrong", "Max", "SMax", "highest", "Max 14", "highest 15", "BitsPerSample", "dim"],
)
def test_the_depth_of_the_header_is_used(content, brightest, tmp_path, caplog):
    found, said = read(content, tmp_path, caplog)
    assert found == brightest
    assert (DARK in said) == (brightest == 16)


@pytest.mark.parametrize(
    "content",
    [
        white_is_zero(tiff(4095 - RAMP * 16, MaxSampleValue=4095)),
        white_is_zero(tiff(65535 - RAMP * 256)),
        white_is_zero(tiff(1 - RAMP.astype(np.float32) / 255)),
    ],
    ids=["12 bits", "16 bits", "floats"],
)
def test_a_tiff_whose_zero_is_white(content, tmp_path, caplog):
    """As X-rays are often stored; Pillow turns such values over in files of 8 bits alone."""
    (tmp_path / "zero.tif").write_bytes(content)
    values = np.asarray(load_image(tmp_path / "zero.tif"))[..., 0].astype(int)
    assert np.abs(values - RAMP).max() <= 1
    assert not caplog.messages
    said = read(white_is_zero(tiff(4095 - RAMP * 16)), tmp_path, caplog, "dim")[1]
    assert "comes out nearly white: no value is above 4095" in said


def test_values_that_were_scaled_to_sixteen_bits_as_png_demands_are_left(tmp_path, caplog):
    twelve = RAMP * 16 + 15
    for values, brightest in ((twelve << 4 | twelve >> 8, 255), ((RAMP * 8) << 4, 127)):
        assert read(png(values, b"\x0c"), tmp_path, caplog) == (brightest, "")


def test_what_may_be_scaled_and_black_or_not_scaled_is_said(tmp_path, caplog):
    brightest, said = read(png(RAMP * 16, b"\x0c"), tmp_path, caplog)
    assert brightest == 254
    assert "deep: read as 12 bits by its header, since no value is above 4080" in said


@pytest.mark.parametrize(
    ("content", "cure"),
    [
        (png(RAMP * 16), "no value is above 4080 of 65535, .*multiply 12 bits by 16"),
        (tiff(RAMP), "multiply 8 bits by 256"),
        (tiff(RAMP.astype(np.float32) / 4096), "no value is above 0.06226 of 1, .*floats to 0 to 1"),
        (
            png(np.stack([RAMP * 16] * 3, axis=-1)),
            "15 of 255 in the upper 8 of 16 bits, .*12 bits by",
        ),
        (png(np.stack([RAMP * 16, RAMP * 0 + 65535], axis=-1)), "multiply 12 bits by 16"),
        (png(np.stack([RAMP * 16] * 3, axis=-1), b"\x0c\x0c\x0c"), "the 12 bits of its header are for grey images"),
        (ppm(np.stack([RAMP * 15] * 3, axis=-1)), "15 of 255 in the upper 8 of 16 bits, .*multiply 12 bits by 16"),
    ],
    ids=["grey", "tiff", "float", "colour", "alpha", "colour with sBIT", "PPM"],
)
def test_a_nearly_black_image_of_many_bits_is_warned_of_once(content, cure, tmp_path, caplog):
    _, said = read(content, tmp_path, caplog)
    assert re.search(rf"^\S*deep: {DARK}: .*{cure}", said)
    assert read(content, tmp_path, caplog)[1] == ""


@pytest.mark.parametrize(
    "content",
    [png(RAMP * 256), png(RAMP * 0), tiff(RAMP * 33), png(np.stack([RAMP * 256] * 3, axis=-1))],
    ids=["grey", "black", "just bright enough", "colour"],
)
def test_other_images_are_not_warned_of(content, tmp_path, caplog):
    assert read(content, tmp_path, caplog)[1] == ""


def frames(kind: str) -> bytes:
    first, *more = (Image.new("RGB", (64, 64), colour) for colour in ("black", "red", "green"))
    out = io.BytesIO()
    first.save(out, kind, save_all=True, append_images=more)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_frame_that_is_read_is_said(kind, tmp_path, caplog):
    assert "deep: frame 1 of 3 is read" in read(frames(kind), tmp_path, caplog)[1]


def test_a_jpeg_with_previews_and_damaged_frames(tmp_path, caplog):
    assert read(frames("MPO"), tmp_path, caplog)[1] == ""
    whole = frames("TIFF")
    directory = int.from_bytes(whole[4:8], "little")
    following = directory + 2 + 12 * int.from_bytes(whole[directory : directory + 2], "little")
    lost = whole[:following] + pack("<I", len(whole) + 1000) + whole[following + 4 :]
    assert "frame 1 of several is read" in read(lost, tmp_path, caplog, "lost")[1]


def test_an_image_in_memory_is_warned_of_each_time(caplog):
    for _ in range(2):
        load_image(Image.fromarray(RAMP * 16))
    assert len(caplog.messages) == 2
    moved = Image.open(io.BytesIO(frames("GIF")))
    moved.seek(1)
    load_image(moved)
    assert len(caplog.messages) == 2


def test_deep_arrays_are_still_refused():
    with pytest.raises(ImageError, match="uint16 is ambiguous"):
        load_image(RAMP)


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_that_read_hand_it_on(workers, tmp_path, caplog):
    paths = []
    for index in range(4):
        (tmp_path / f"{index}.png").write_bytes(png(RAMP * 16 if index % 2 else RAMP * 256))
        paths.append(str(tmp_path / f"{index}.png"))

    def how(path):
        return prepare(path, HOW)

    with ReadAhead(how, workers=workers, ahead=2) as reader:
        reader.expect(paths)
        batches = reader.take(paths)
    assert [len(batch.notes[0]) for batch in batches] == [0, 1, 0, 1]
    assert [path in " ".join(caplog.messages) for path in paths] == [False, True, False, True]
    joined = type(batches[0]).join(batches)
    assert [len(notes) for notes in joined.notes] == [0, 1, 0, 1]
    assert [len(notes) for notes in joined.part(slice(1, 3)).notes] == [1, 0]


def test_rays_workers_hand_it_on(tmp_path, caplog):
    pytest.importorskip("ray", reason="extra ray")
    from vitscope.bench import ray_crew
    from vitscope.bench.plan import Part
    from vitscope.bench.worker import Computed

    (tmp_path / "a.png").write_bytes(png(RAMP * 16))

    class Reads:
        def compute(self, part, advance):
            load_image(tmp_path / "a.png")
            return Computed(None, {})

    actor = ray_crew._Actor()
    actor._worker = Reads()
    _, said, notes = actor.compute(Part(0, 0, 1))
    assert not caplog.messages
    assert not said
    assert DARK in notes[0]


def test_the_command_line_manifest_and_report_carry_it(tmp_path, monkeypatch, capsys):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png(RAMP * 16))
    out = tmp_path / "out"
    words = ["explain", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--model", "scenes", "--methods", "cdam"]
    monkeypatch.setattr(sys, "argv", ["vitscope", *words, "--out", str(out), "--workers", "2"])
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().err
    for name in ("a", "b"):
        assert said.count(f"{name}.png: {DARK}") == 1
        for file in ("manifest.json", "view.json"):
            content = json.loads((out / name / file).read_text())
            notes = content["notes"] if file == "view.json" else content["image"]["notes"]
            assert DARK in notes[0]


def test_maps_in_parts_say_it(tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(png(RAMP * 16))
    from vitscope.bench import plan_maps, store_maps

    explainer = vitscope.Explainer("scenes")
    target = explainer.target(None)
    plan = plan_maps(explainer, [str(tmp_path / "a.png")], "cdam", target)
    store_maps(plan, explainer, target, tmp_path / "out")
    assert DARK in " ".join(caplog.messages)


def test_the_server_tells_the_sender(caplog):
    from vitscope.serve.limits import Limits
    from vitscope.serve.uploads import read_upload

    caplog.set_level(logging.INFO)
    batch = read_upload(io.BytesIO(png(RAMP * 16)), "x-ray.png", HOW, Limits())
    assert f"x-ray.png: {DARK}" in batch.notes[0][0]
    batch = read_upload(io.BytesIO(frames("GIF")), "a.gif", HOW, Limits())
    assert "a.gif: frame 1 of several is read" in batch.notes[0][0]
    assert not caplog.messages


def test_an_upload_of_many_frames_is_not_counted():
    with collected() as lines:
        read_image(io.BytesIO(frames("TIFF")), "a", ("TIFF",), 10**6)
    assert lines == ["a: frame 1 of several is read; save another one as a file of its own to explain it"]
