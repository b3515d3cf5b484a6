"""Pictures of every format that Pillow writes, broken, by path and as an upload."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageCms
from tools.fuzz.judge import Case
from tools.fuzz.mutate import NUMBERS, some_bytes, with_png_sums

from vitscope.images import Preprocessing, load_image, prepare
from vitscope.images.load import load_levels, read_image
from vitscope.images.preprocess import CROP_MODES
from vitscope.serve.uploads import FORMATS

PLAIN = Preprocessing.of_fields(
    size=32, interpolation="bilinear", crop_pct=0.9, crop_mode="center", mean=(0.5,) * 3, std=(0.5,) * 3
)
CROPS = {crop: PLAIN.replaced(crop_mode=crop) for crop in CROP_MODES}
KINDS = ("path", "stored", "levels", "upload", "upload", *CROPS)
MOST = 4_000_000
"""Pixels of an upload."""


class Images:
    """`load_image`, `load_levels`, `prepare` and `read_image`."""

    def prepare(self, folder: Path) -> None:
        """Nothing is written but the cases."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "picture"

    def case(self, chance: Random) -> Case:
        """One of the pictures with faults; of a PNG often with right check sums, or of sizes that it does not have."""
        files = valid_pictures()
        name = chance.choice(sorted(files))
        content = files[name]
        if name.startswith("png") and chance.random() < 0.1:
            content = impossible_png(chance)
        elif chance.random() < 0.98:
            content = some_bytes(content, chance, list(files.values()))
            if name.startswith("png") and chance.random() < 0.7:
                content = with_png_sums(content)
        return Case(chance.choice(KINDS), {"picture": content})

    def call(self, case: Case) -> None:
        """Read it as it is asked for."""
        content = case.files["picture"]
        if case.kind == "upload":
            picture = read_image(io.BytesIO(content), "picture", FORMATS, MOST)
            assert picture.mode == "RGB"
            assert picture.width * picture.height <= MOST
            return
        self._file.write_bytes(content)
        if case.kind == "levels":
            assert load_levels(self._file).size > (0, 0)
        elif case.kind in CROPS:
            batch = prepare(self._file, CROPS[case.kind])
            assert batch.tensor.shape == (1, 3, 32, 32)
            assert batch.tensor.isfinite().all()
        else:
            picture = load_image(self._file, upright=case.kind == "path")
            assert picture.mode == "RGB"


@cache
def valid_pictures() -> dict[str, bytes]:
    """Small pictures by name; every format, mode and piece of metadata that may go wrong in its own way."""
    draw = np.random.default_rng(0)
    colour = Image.fromarray(draw.integers(0, 256, (13, 17, 3), dtype=np.uint8))
    smooth = Image.fromarray((np.indices((24, 24)).sum(axis=0) * 5).astype(np.uint8))
    alpha = Image.fromarray(draw.integers(0, 256, (9, 8, 4), dtype=np.uint8))
    deep = Image.fromarray(draw.integers(0, 65536, (9, 8)).astype(np.uint16))
    palette = colour.quantize(7)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned = Image.Exif()
    turned[0x0112], turned[0x010E] = 6, "a description"
    frames = [colour.rotate(90 * turn) for turn in range(1, 3)]

    def file(image: Image.Image, kind: str, **options: Any) -> bytes:
        out = io.BytesIO()
        image.save(out, kind, **options)
        return out.getvalue()

    return {
        "png": file(colour, "PNG"),
        "png alpha icc exif": file(alpha, "PNG", icc_profile=profile, exif=turned),
        "png palette": file(palette, "PNG", transparency=2),
        "png 16 bit": file(deep, "PNG"),
        "png 1 bit": file(smooth.convert("1"), "PNG"),
        "png animated": file(colour, "PNG", save_all=True, append_images=frames),
        "jpeg": file(colour, "JPEG"),
        "jpeg grey exif": file(smooth, "JPEG", exif=turned),
        "jpeg progressive icc": file(colour, "JPEG", progressive=True, icc_profile=profile),
        "jpeg cmyk": file(colour.convert("CMYK"), "JPEG"),
        "jpeg of two": file(colour, "MPO", save_all=True, append_images=frames[:1]),
        "webp": file(colour, "WEBP", quality=50),
        "webp exact": file(alpha, "WEBP", lossless=True, exif=turned, icc_profile=profile),
        "webp animated": file(colour, "WEBP", save_all=True, append_images=frames),
        "gif": file(palette, "GIF"),
        "gif animated": file(palette, "GIF", save_all=True, append_images=frames, transparency=1),
        "tiff": file(colour, "TIFF"),
        "tiff lzw exif": file(colour, "TIFF", compression="tiff_lzw", exif=turned),
        "tiff deflate": file(alpha, "TIFF", compression="tiff_deflate"),
        "tiff jpeg": file(colour, "TIFF", compression="jpeg"),
        "tiff float": file(smooth.convert("F").point(lambda value: value / 255), "TIFF"),
        "tiff 16 bit": file(deep, "TIFF"),
        "tiff cmyk": file(colour.convert("CMYK"), "TIFF"),
        "tiff fax": file(smooth.convert("1"), "TIFF", compression="group4"),
        "bmp": file(colour, "BMP"),
        "bmp palette": file(palette, "BMP"),
        "bmp 1 bit": file(smooth.convert("1"), "BMP"),
        "ico": file(colour.resize((16, 16)), "ICO"),
        "icns": file(colour.resize((16, 16)), "ICNS"),
        "ppm": file(colour, "PPM"),
        "tga": file(alpha, "TGA", compression="tga_rle"),
        "pcx": file(palette, "PCX"),
        "dds": file(alpha, "DDS"),
        "jpeg 2000": file(colour, "JPEG2000"),
        "avif": file(colour, "AVIF"),
        "qoi": file(colour, "QOI"),
        "sgi": file(colour, "SGI"),
        "im": file(colour, "IM"),
        "xbm": file(smooth.convert("1"), "XBM"),
        "blp": file(palette, "BLP"),
    }


def impossible_png(chance: Random) -> bytes:
    """A whole PNG, by its check sums, of a size, depth or kind that its pixels do not have."""
    sides = [chance.choice((1, 2, 5, 1000, 20_000, 60_000, 2**31 - 1, chance.choice(NUMBERS) % 2**32)) for _ in "wh"]
    depth, kind = chance.choice((1, 2, 4, 8, 16, 3)), chance.choice((0, 2, 3, 4, 6, 5))
    head = struct.pack(">IIBBBBB", *sides, depth, kind, 0, 0, chance.choice((0, 0, 0, 1)))
    rows = bytes(chance.choice((0, 100, 200_000)))
    out = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        out += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return out
