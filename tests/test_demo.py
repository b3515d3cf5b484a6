"""The demonstration: one page, everything in it, a choice of methods, every kind of scene."""

import re
from html import unescape

import pytest

from vitscope.bench import Estimate, Localization
from vitscope.datasets import CLASSES
from vitscope.demo import CHEAP, METHODS, MOST, TWO, TWO_SHOWN, Size, chosen, demo_page, localization_table
from vitscope.methods import Facts, list_methods

pytestmark = pytest.mark.integration


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
    assert len(html) < 4_000_000


def test_it_shows_the_papers_and_the_cheapest_of_each_other_family():
    listed = list_methods()
    families = {facts.name: facts.family for facts in listed}
    assert {name for name in METHODS if families[name] == "papers"} == {
        facts.name for facts in listed if facts.family == "papers"
    }
    for family in set(families.values()) - {"papers"}:
        costs = {facts.name: facts.forwards for facts in listed if facts.family == family and facts.forwards <= CHEAP}
        shown = [name for name in METHODS if families[name] == family]
        assert len(shown) == (0 if family == "trivial" else min(MOST, len(costs)))
        assert max((costs[name] for name in shown), default=0) <= min(
            (cost for name, cost in costs.items() if name not in shown), default=CHEAP
        )
    assert METHODS[:3] == ["daam", "agcam", "cdam"]


def test_the_choice_follows_what_is_registered():
    def facts(name, family, cost, year=2020):
        return Facts(name, "", family, "", year, False, True, cost, "")

    listed = [
        facts("new", "papers", "9"),
        facts("daam", "papers", "2.3"),
        facts("late", "cam", "1.1", 2021),
        facts("early", "cam", "1.1", 2017),
        facts("first", "cam", "1.0"),
        facts("rise", "perturbation", "4000"),
        facts("frame", "trivial", "1.0"),
    ]
    assert chosen(listed) == ["daam", "new", "first", "early"]


def test_it_shows_its_methods_and_both_questions(made):
    _, text, _, _ = made
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
