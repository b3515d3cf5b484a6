"""The demonstration: one page, everything in it, every method, every kind of scene."""

import re
from html import unescape

import pytest

from vitscope.bench import Estimate, Localization
from vitscope.datasets import CLASSES
from vitscope.demo import METHODS, TWO, TWO_SHOWN, Size, demo_page, localization_table
from vitscope.methods import list_methods


@pytest.fixture(scope="module")
def made():
    steps = []
    size = Size(measured=4, tuned=3, asked=2)
    html = demo_page(size, progress=steps.append)
    return html, unescape(re.sub(r"data:image/webp;base64,[\w+/=]+", "data:", html)), sum(steps), size.steps


def test_it_stands_alone(made):
    html, text, done, announced = made
    assert done == announced
    assert set(re.findall(r'(?:src|href)="([^"]*)"', text)) == {"data:"}
    assert "http" not in text
    assert "@import" not in text
    assert html.count("data:image/webp;base64,") > 80


def test_it_shows_every_method_and_both_questions(made):
    _, text, _, _ = made
    altering = ("trivial", "input-gradient", "perturbation")
    assert set(METHODS) == {facts.name for facts in list_methods() if facts.family not in altering}
    for name in METHODS:
        assert f"<figcaption>{name}</figcaption>" in text
    for index in TWO_SHOWN:
        for label in TWO[index].labels:
            assert f"asked for: {CLASSES[label]}" in text
    for words in ("several", "scenes-shortcut, with a mark", "neighbours in memory say", "block 12", "asked : both"):
        assert words.lower() in text.lower()
    assert "NaN" not in text
    assert "nan%" not in text


def test_the_table_says_what_was_measured():
    estimate = Estimate(0.5, 0.4, 0.6, 7)
    table = localization_table([Localization("daam", 0.25, estimate, estimate, estimate, 0)])
    assert [cell.text for cell in table.lines[0]] == ["daam", "0.50", "0.25", "0.50", "0.50"]
    assert table.lines[0][1].note == "[0.40, 0.60]"
    assert table.lines[0][1].share == 0.5
