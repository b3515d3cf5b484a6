"""The page's own numbers and colours against PyTorch, NumPy and the pictures that Python draws."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.browser import watched
from vitscope.report.front_end import modules
from vitscope.report.packing import exact, rounded, unpacked
from vitscope.report.record import DIVERGING, SEQUENTIAL, palettes
from vitscope.view import blend, clipped, minmax, symmetric

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def run(browser):
    """Runs a function of the modules in a page: run("m => m.numbers.digits(3)", ...)."""
    with watched(browser) as seen:
        seen.page.goto("about:blank")
        seen.page.evaluate(f"(() => {{{modules('viewer')}\nwindow.modules = modules;}})()")
        yield lambda text, argument=None: seen.page.evaluate(
            f"argument => ({text})(window.modules, argument)", argument
        )
        assert not seen.said


def test_arrays_come_out_as_they_went_in(run):
    values = torch.randn(5, 3, 4) * 10 ** torch.randint(-6, 6, (5, 1, 1)).float()
    read = "(m, p) => { const a = new m.numbers.Packed(p); return [a.shape, [...a.all()], [...a.row(2)]]; }"
    for packed in (exact(values), rounded(values)):
        shape, everything, row = run(read, packed)
        assert shape == [5, 3, 4]
        assert np.allclose(everything, unpacked(packed).ravel(), rtol=1e-6, atol=0)
        assert np.allclose(row, unpacked(packed)[2].ravel(), rtol=1e-6, atol=0)


def test_quantiles_are_torchs(run):
    for count in (1, 2, 37, 196):
        values = torch.randn(count)
        for q in (0.0, 0.5, 0.98, 1.0):
            found = run("(m, [v, q]) => m.numbers.quantile(v, q)", [values.tolist(), q])
            assert found == pytest.approx(float(values.abs().quantile(q)), rel=1e-5)


@pytest.mark.parametrize(
    ("cells", "size"), [((14, 14), (448, 448)), ((3, 5), (7, 40)), ((1, 1), (4, 4)), ((6, 4), (6, 4))]
)
def test_enlarging_is_bilinear(run, cells, size):
    values = torch.randn(cells)
    expected = F.interpolate(values[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    argument = [exact(values), *size]
    found = run("(m, [p, h, w]) => [...m.numbers.enlarged(m.numbers.mapOf(p), h, w).values]", argument)
    assert np.allclose(np.reshape(found, size), expected, atol=1e-5)


def test_blocks_add_up(run):
    blocks = torch.randn(6, 4, 5)
    for k in range(6):
        found = run("(m, [p, k]) => [...m.numbers.accumulated(new m.numbers.Packed(p), k).values]", [exact(blocks), k])
        assert np.allclose(found, blocks.cumsum(0)[k].flatten(), rtol=1e-6, atol=1e-6)


def test_extremes_and_probabilities(run):
    values = torch.randn(50)
    assert run("(m, v) => m.numbers.extremes(v, 7)", values.tolist()) == values.topk(7).indices.tolist()
    lowest = values.topk(7, largest=False).indices.tolist()
    assert run("(m, v) => m.numbers.extremes(v, 7, -1)", values.tolist()) == lowest
    script = "(m, [v, activation]) => { const p = m.numbers.probabilities(v, activation); return p && [...p]; }"
    for activation, wanted in (("softmax", (values * 300).double().softmax(0)), ("sigmoid", (values * 300).sigmoid())):
        assert np.allclose(run(script, [(values * 300).tolist(), activation]), wanted, atol=1e-6)
    assert run(script, [values.tolist(), "none"]) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (1, "1"), (0.123456, "0.123"), (-12.345, "−12.3"), (0.00012345, "1.2·10⁻⁴"), (-3e12, "−3.0·10¹²")],
)
def test_numbers_for_people(run, value, words):
    assert run("(m, v) => m.numbers.digits(v)", value) == words


PAINT = """(m, [p, signed, end, smooth, palettes]) => {
  const map = m.numbers.mapOf(p), canvas = document.createElement("canvas");
  const tables = m.colour.tablesOf(palettes);
  const table = [...(signed ? tables.diverging : tables.sequential).values()][0];
  const limits = m.colour.limitsOf(map, { signed, end });
  m.colour.paint(canvas, map, limits, { signed, table, opacity: 0.65, smooth });
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return [canvas.height, canvas.width, [...data]];
}"""


@pytest.mark.parametrize("signed", [True, False])
def test_colours_are_those_of_the_pictures(run, signed):
    """What the page lays over a grey photograph, cell by cell, is what `blend` draws."""
    values = torch.randn(6, 9) * 3
    values = values if signed else values.abs() + 0.3
    height, width, data = run(PAINT, [exact(values), signed, 0.98, False, palettes()])
    assert (height, width) == (6, 9)
    drawn = np.reshape(data, (6, 9, 4)).astype(np.float64)
    cover = drawn[..., 3:] / 255
    found = drawn[..., :3] * cover + 120 * (1 - cover)
    cut = clipped(values, values)
    shares = symmetric(cut) if signed else minmax(cut)
    expected = np.asarray(blend(Image.new("RGB", (9, 6), (120, 120, 120)), shares, signed), dtype=np.float64)
    assert np.abs(found - expected).max() <= 4  # the canvas keeps colours multiplied by their cover


def test_the_colours_of_a_growing_map_start_at_zero_and_end_with_the_whole(run):
    text = "(m, [p, w, signed]) => m.colour.limitsOf(m.numbers.mapOf(p), {signed, whole: m.numbers.mapOf(w), end: 1})"
    part, whole = torch.rand(3, 3) + 1, torch.rand(3, 3) + 5
    found = run(text, [exact(part), exact(whole), False])
    assert found == {"low": 0, "high": pytest.approx(float(whole.max()))}
    found = run(text, [exact(part), exact(-whole), True])
    assert found == {"low": pytest.approx(-float(whole.max())), "high": pytest.approx(float(whole.max()))}


def test_every_palette_has_its_colours():
    found = palettes()
    assert tuple(found["sequential"]) == SEQUENTIAL
    assert tuple(found["diverging"]) == DIVERGING
    json.dumps(found)
