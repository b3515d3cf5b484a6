"""Draws the picture of the README and lets vitscope explain it: python docs/make_pictures.py --weights FILE.

The drawing is made here, with no photograph; the network is any timm ViT-Ti/16 trained on ImageNet-1k.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

import vitscope

HERE = Path(__file__).parent / "pictures"


def balloon(width: int = 640, height: int = 480) -> Image.Image:
    """A hot-air balloon over hills."""
    scale = 2
    w, h = width * scale, height * scale
    picture = Image.new("RGB", (w, h))
    draw = ImageDraw.Draw(picture)
    for y in range(h):
        t = y / h
        draw.line([(0, y), (w, y)], fill=(int(96 + 130 * t), int(160 + 70 * t), int(225 + 20 * t)))
    clouds = Image.new("L", (w, h))
    puff = ImageDraw.Draw(clouds)
    for cx, cy, r in ((180, 190, 60), (250, 170, 75), (330, 195, 55), (1010, 300, 60), (1090, 285, 70)):
        puff.ellipse([cx - r * 1.4, cy - r * 0.6, cx + r * 1.4, cy + r * 0.6], fill=190)
    picture.paste((255, 255, 255), mask=clouds.filter(ImageFilter.GaussianBlur(24)))
    draw = ImageDraw.Draw(picture)
    for base, swing, period, phase, colour in (
        (760, 50, 640, 0.4, (96, 140, 110)),
        (820, 40, 420, 2.0, (74, 120, 70)),
        (880, 26, 300, 1.0, (52, 98, 48)),
    ):
        edge = [(x, base + swing * math.sin(2 * math.pi * x / period + phase)) for x in range(0, w + 8, 8)]
        draw.polygon([*edge, (w, h), (0, h)], fill=colour)
    cx, cy, r = 640, 330, 230
    colours = [(214, 48, 49), (250, 190, 40), (240, 240, 232), (30, 110, 190), (250, 190, 40), (214, 48, 49)]
    bag = Image.new("RGB", (w, h))
    gores = ImageDraw.Draw(bag)
    for index in range(12):
        a, b = math.pi * index / 12, math.pi * (index + 1) / 12
        x0, x1 = cx - r * math.cos(a), cx - r * math.cos(b)
        gores.rectangle([x0, cy - r, x1 + 1, cy + 2 * r], fill=colours[index % len(colours)])
    shade = Image.radial_gradient("L").resize((3 * r, 3 * r))
    dark = Image.new("L", (w, h), 0)
    dark.paste(shade.point(lambda v: int(v * 0.55)), (cx - 2 * r, cy - 2 * r + 40))
    bag.paste((20, 10, 30), mask=dark)
    outline = Image.new("L", (w, h))
    shape = ImageDraw.Draw(outline)
    shape.ellipse([cx - r, cy - r, cx + r, cy + r], fill=255)
    shape.polygon(
        [(cx - r * 0.94, cy + r * 0.34), (cx + r * 0.94, cy + r * 0.34), (cx + 46, cy + 350), (cx - 46, cy + 350)],
        fill=255,
    )
    picture.paste(bag, mask=outline)
    draw = ImageDraw.Draw(picture)
    for x in (-44, -16, 16, 44):
        draw.line([(cx + x, cy + 350), (cx + x * 0.8, cy + 410)], fill=(60, 45, 35), width=4)
    draw.rounded_rectangle([cx - 44, cy + 408, cx + 44, cy + 468], 10, fill=(128, 84, 48))
    for y in range(cy + 418, cy + 468, 12):
        draw.line([(cx - 42, y), (cx + 42, y)], fill=(96, 60, 34), width=3)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True)
    arguments = parser.parse_args()
    HERE.mkdir(exist_ok=True)
    balloon().save(HERE / "drawing.png")
    explainer = vitscope.Explainer("timm/vit_tiny_patch16_224", arguments.weights)
    with tempfile.TemporaryDirectory() as folder:
        (made,) = explainer(HERE / "drawing.png", "daam,agcam,cdam,attention").save(folder)
        for name in ("sheet.png", "daam-evolution.png", "daam-evolution.gif"):
            (HERE / name).write_bytes((Path(made) / name).read_bytes())


if __name__ == "__main__":
    main()
