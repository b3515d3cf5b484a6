"""Charts as SVG that belongs to a page: its colours are the page's, so that light and dark both fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH = 400
"""Of every chart in its own units; the text is 12 of them high, and a phone shows the chart at nearly full size."""

_DASHES = ("", "7 3", "2 3", "9 3 2 3")
COLOURS = 8
"""Colours that the page defines for series, `--series-0` and on."""


@dataclass(frozen=True)
class Bar:
    """A value with the ends of its interval, None where there is none; `apart` is set in grey, `strong` in bold."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    apart: bool = False
    strong: bool = False


@dataclass(frozen=True)
class Series:
    """A curve with its band; None where a point has no value. `place` decides colour and dashes."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None]
    high: Sequence[float | None]
    place: int
    apart: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawing with its title."""

    title: str
    svg: Markup
    note: str = ""


@dataclass(frozen=True)
class Charts:
    """Charts side by side; `legend` names the series that they share: label, place, whether it is set apart."""

    charts: Sequence[Chart]
    legend: Sequence[tuple[str, int, bool]] = ()


def bars(entries: Sequence[Bar], name: str) -> Markup:
    """Horizontal bars from zero, whiskers for the intervals.

    Args:
        entries: top to bottom.
        name: for those who do not see it.
    """
    left, right, row, top = 148, 44, 21, 4
    ends = [v for bar in entries for v in (bar.value, bar.low, bar.high) if v is not None]
    low, high, ticks = _scale(min(0.0, *ends), max(0.0, *ends), 4)
    height = top + row * len(entries) + 24
    span = WIDTH - left - right

    def at(value: float) -> float:
        return left + span * (value - low) / (high - low)

    out = [_grid_line(at(tick), top, at(tick), height - 22) for tick in ticks]
    out += [_text(at(tick), height - 7, _tick(tick, ticks), "middle", "tick") for tick in ticks]
    for place, bar in enumerate(entries):
        y = top + row * place
        kind = "bar apart" if bar.apart else "bar"
        start, width = min(at(0), at(bar.value)), abs(at(bar.value) - at(0))
        out.append(f'<rect class="{kind}" x="{start:.1f}" y="{y + 3}" width="{width:.1f}" height="{row - 7}" rx="2"/>')
        reach = at(bar.value)
        if bar.low is not None and bar.high is not None:
            middle = y + row / 2 - 0.5
            ends_at = f"M{at(bar.low):.1f} {middle - 4}v8M{at(bar.low):.1f} {middle}H{at(bar.high):.1f}m0 -4v8"
            out.append(f'<path class="whisker" d="{ends_at}"/>')
            reach = max(reach, at(bar.high))
        weight = "strong" if bar.strong else "faint" if bar.apart else ""
        out.append(_text(left - 7, y + 14.5, _short(bar.label, 22), "end", weight, bar.label))
        out.append(_text(max(reach, at(0)) + 5, y + 14.5, _value(bar.value), "start", "tick"))
    out.append(f'<path class="axis" d="M{at(0):.1f} {top}V{height - 22}"/>')
    return _svg(out, height, name)


def lines(series: Sequence[Series], x_name: str, name: str, unit_y: bool = False) -> Markup:
    """Curves with their bands.

    Args:
        series: all on one pair of axes.
        x_name: under the horizontal axis.
        name: for those who do not see it.
        unit_y: whether the vertical axis is from 0 to 1 at least.
    """
    left, right, top, height = 46, 12, 8, 256
    bottom = height - 42
    xs = [x for one in series for x in one.x]
    ys = [y for one in series for y in one.y if y is not None]
    x_low, x_high, x_ticks = min(xs), max(xs), _ticks(min(xs), max(xs), 6)
    y_low, y_high, y_ticks = _scale(min(ys, default=0), max(ys, default=1), 5)
    if unit_y:
        y_low, y_high, y_ticks = _scale(min(0.0, y_low), max(1.0, y_high), 5)
    wide = (x_high - x_low) or 1.0

    def across(x: float) -> float:
        return left + (WIDTH - left - right) * (x - x_low) / wide

    def up(y: float) -> float:
        return bottom - (bottom - top) * (min(max(y, y_low), y_high) - y_low) / (y_high - y_low)

    out = [_grid_line(left, up(tick), WIDTH - right, up(tick)) for tick in y_ticks]
    out += [_text(left - 6, up(tick) + 4, _tick(tick, y_ticks), "end", "tick") for tick in y_ticks]
    out += [_text(across(tick), bottom + 17, _tick(tick, x_ticks), "middle", "tick") for tick in x_ticks]
    out.append(_text((left + WIDTH - right) / 2, height - 6, x_name, "middle", "tick"))
    for one in series:
        known = [
            (across(x), up(y), up(l if l is not None else y), up(h if h is not None else y))
            for x, y, l, h in zip(one.x, one.y, one.low, one.high, strict=True)  # noqa: E741
            if y is not None
        ]
        if not known:
            continue
        rim = [(x, h) for x, _, _, h in known] + [(x, l) for x, _, l, _ in reversed(known)]  # noqa: E741
        band = " ".join(f"{x:.1f},{y:.1f}" for x, y in rim)
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in known)
        out.append(
            f'<g class="series" data-series="{one.place}" style="{stroke(one.place, one.apart)}">'
            f"<title>{escape(one.label)}</title>"
            f'<polygon class="band" points="{band}"/><polyline points="{line}"/></g>'
        )
    out.append(f'<path class="axis" d="M{left} {top}V{bottom}H{WIDTH - right}"/>')
    return _svg(out, height, name)


def stroke(place: int, apart: bool = False) -> str:
    """The style of a series."""
    colour = "var(--faint)" if apart else f"var(--series-{place % COLOURS})"
    dash = _DASHES[(place // COLOURS if not apart else 1 + place) % len(_DASHES)]
    return f"--series: {colour}; stroke-dasharray: {dash or 'none'}"


def _scale(low: float, high: float, count: int) -> tuple[float, float, list[float]]:
    """Ends that are ticks, around both."""
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    step = _step(low, high, count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [number * step for number in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Ticks within both."""
    if high - low < 1e-12:
        return [low]
    step = _step(low, high, count)
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _step(low: float, high: float, count: int) -> float:
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    return next(size * nice for nice in (1, 2, 2.5, 5, 10) if size * nice >= rough * (1 - 1e-9))


def _tick(value: float, ticks: Sequence[float]) -> str:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else max(abs(value), 1.0)
    places = next((k for k in range(7) if abs(round(step, k) - step) < 1e-9 * max(step, 1)), 7)
    return f"{value + 0.0:.{places}f}" if step < 1e5 else f"{value:g}"


def _value(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _text(x: float, y: float, text: str, anchor: str, kind: str, whole: str = "") -> str:
    title = f"<title>{escape(whole)}</title>" if whole and whole != text else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}{title}</text>'


def _grid_line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path class="gridline" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def _svg(parts: Sequence[str], height: float, name: str) -> Markup:
    # Everything that comes from outside was escaped where it was put in.
    body = "".join(parts)
    return Markup(  # nosec B704  # numbers and escaped names
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(name)}">{body}</svg>'
    )
