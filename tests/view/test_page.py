"""A page in one file: escaped, self-contained, its pictures whole."""

import base64
import io
import re

import numpy as np
from PIL import Image

from vitscope.view.page import Cell, Film, Row, Section, Table, Tile, data_uri, outline, page


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 30, 3), dtype=np.uint8))


def read(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_everything_is_in_it_and_escaped():
    text = page(
        "A <b> title",
        ["lead & more"],
        [
            Section(
                "First",
                ["said <script>"],
                [
                    Row("row", [Tile("one", picture(), "note"), Tile("two", picture(1), outline=picture(2))]),
                    Film("film", [picture(3), picture(4)], ["block 1", "block 2"]),
                    Table(
                        ["a", "b"], [[Cell("x"), Cell("0.5", "[0, 1]", 0.5)], [Cell("grey"), Cell("1")]], "n", ["grey"]
                    ),
                ],
            )
        ],
        "foot",
    )
    assert "A &lt;b&gt; title" in text
    assert "said &lt;script&gt;" in text
    uris = re.findall(r"data:image/webp;base64,[\w+/=]+", text)
    assert len(uris) == 2 + 3 + 2  # the legend's bars, the row's pictures, the film's frames
    assert all(read(uri).size in {(30, 20), (160, 10)} for uri in uris)
    assert 'class="apart"' in text
    assert "--share: 50.0%" in text
    for words in ("block 2", "lead &amp; more", "foot", "[0, 1]"):
        assert words in text


def test_a_transparent_picture_stays_exact():
    mask = np.zeros((12, 12), dtype=bool)
    mask[3:9, 4:8] = True
    border = outline(mask, (120, 120))
    again = read(data_uri(border)).convert("RGBA")
    seen = np.asarray(border)[..., 3] > 0
    assert np.array_equal(np.asarray(again)[..., 3], np.asarray(border)[..., 3])
    assert np.array_equal(np.asarray(again)[seen], np.asarray(border)[seen])


def test_the_outline_runs_along_the_mask():
    mask = np.zeros((12, 12), dtype=bool)
    mask[3:9, 4:8] = True
    alpha = np.asarray(outline(mask, (120, 120)))[..., 3] > 0
    rows, cols = np.nonzero(alpha)
    assert abs(rows.min() - 30) <= 4
    assert abs(rows.max() - 89) <= 4
    assert abs(cols.min() - 40) <= 4
    assert abs(cols.max() - 79) <= 4
    assert not alpha[60, 60]
