"""The report in a browser: what it shows is what was computed, and it asks nobody for anything."""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from tests.browser import watched
from tests.conftest import build
from vitscope import Explainer
from vitscope.report import content_of, lens_of
from vitscope.report.page import as_script, report_page
from vitscope.targets import ClassNames

pytestmark = pytest.mark.xdist_group("browser")

NAMES = (*(f"thing {index}" for index in range(7)), "<img src=x onerror=alert(1)>", "</script><b>", "Zebra, Equus")


@dataclass
class Made:
    """A report with what it was made of."""

    path: str
    explanation: object
    evidence: object
    html: str


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two photographs of different shape, whose names try to be markup, by a small random model."""
    folder = tmp_path_factory.mktemp("report")
    random = np.random.default_rng()
    paths = []
    for name, size in (("</script><script>throw 1</script>.png", (50, 70)), ("b.png", (64, 40))):
        path = folder / name.replace("/", "-")
        Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
        paths.append(str(path))
    explainer = Explainer(build(num_classes=10), labels=ClassNames(NAMES))
    explanation = explainer(paths, "daam,agcam,cdam,attention,random")
    content = content_of(explanation, lens_of(explainer, explanation.subject.batch))
    html = report_page(content["pictures"], content["shared"])
    (folder / "report.html").write_text(html)
    return Made(f"file://{folder}/report.html", explanation, explainer.evidence(explanation.subject.batch), html)


@pytest.fixture
def opened(browser, made):
    """The report, watched: an error in the console, or a request to anywhere, fails the test."""
    with watched(browser, viewport={"width": 1280, "height": 1000}) as seen:
        seen.page.goto(made.path)
        seen.page.wait_for_selector("html[data-ready]")
        yield seen.page
        assert seen.said == []
        assert [url for url in seen.asked if not url.startswith("data:")] == [made.path]


def shown(page, place=0):
    """Title and values of what is drawn."""
    found = page.evaluate(
        "place => { const d = vitscope.shown(place); return d && [d.title, d.rows, d.cols, [...d.values]]; }", place
    )
    return found and (found[0], np.reshape(found[3], (found[1], found[2])))


def drawn(page, place=0):
    """Height, width and a number that changes with the pixels of a layer; 0 where nothing is drawn."""
    return page.evaluate(
        """place => { const c = document.querySelectorAll('.stage canvas')[place];
        const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);
        const mixed = data.reduce((sum, value, i) => (sum * 31 + value * (i % 97 + 1)) % 2147483647, 0);
        return [c.height, c.width, mixed]; }""",
        place,
    )


def at_patch(page, row, col, rows=4, cols=4):
    """Move the mouse to the middle of a patch."""
    box = page.locator(".stage .window").first.bounding_box()
    page.mouse.move(box["x"] + (col + 0.5) / cols * box["width"], box["y"] + (row + 0.5) / rows * box["height"])


def listed(page, place, side):
    """(class, words) of a list of opinions: place 0 of the patch, 1 of the region."""
    buttons = page.locator(".opinions").nth(place).locator(f"button.{side}").all()
    return [(int(button.get_attribute("data-class")), button.text_content()) for button in buttons]


def opinions(made, image, row, col):
    """The classes that a patch speaks for and against, without those whose evidence is lost among 16-bit levels."""
    least = 1e-3 * float(made.evidence.all()[image].abs().max())
    found = made.evidence.patch(row, col, k=5)[image]
    return [[one.index for one in side if abs(one.value) > least] for side in found]


def test_it_opens_with_the_first_map(opened, made):
    title, values = shown(opened)
    assert title == "daam"
    assert np.array_equal(values, made.explanation["daam"].values[0])
    assert drawn(opened)[2] > 0
    assert opened.get_by_role("heading", level=2).text_content() == made.explanation.subject.batch.names[0]


def test_every_method_can_be_chosen(opened, made):
    for label in made.explanation:
        opened.get_by_label("map", exact=True).select_option(label)
        title, values = shown(opened)
        assert title == label
        assert np.array_equal(values, made.explanation[label].values[0])
        caution = opened.locator(".caution").text_content()
        assert made.explanation[label].facts.caution in caution
        assert ("The same map for every class." in caution) == (label == "attention")
        assert ("Unsigned" in caution) == (label in ("daam", "agcam", "attention"))


@pytest.mark.parametrize("label", ["daam", "agcam"])
def test_the_slider_at_block_k_shows_the_flow_at_k(opened, made, label):
    opened.get_by_label("map", exact=True).select_option(label)
    attribution = made.explanation[label]
    slider = opened.get_by_role("slider", name="block")
    pixels = []
    for k in (0, 1, 2):
        slider.fill(str(k + 1))
        assert np.allclose(shown(opened)[1], attribution.flow[0, k], rtol=1e-6, atol=1e-7)
        pixels.append(drawn(opened)[2])
        assert f"block {k + 1} of 3" in opened.locator(".evolution output").text_content()
    changes = (attribution.blocks[0, 1:].abs().amax((1, 2)) > 0).tolist()  # a block may say nothing
    assert [before != after for before, after in itertools.pairwise(pixels)] == changes
    opened.get_by_role("radio", name="this block's own").check()
    for k in (2, 0):
        slider.fill(str(k + 1))
        assert np.array_equal(shown(opened)[1], attribution.blocks[0, k])
    share = attribution.blocks[0].abs().sum((1, 2))
    (told,) = re.findall(r"Block 1 has ([\d.]+) %", opened.locator(".evolution p").text_content())
    assert float(told) == pytest.approx(100 * float(share[0] / share.sum()), abs=0.51)


def test_it_plays_and_pauses(opened):
    opened.get_by_role("button", name="play").click()
    opened.locator(".evolution output").get_by_text("block 2 of 3").wait_for()
    opened.get_by_role("button", name="pause").click()
    before = opened.locator(".evolution output").text_content()
    opened.wait_for_timeout(600)
    assert opened.locator(".evolution output").text_content() == before


def test_a_block_is_chosen_in_the_chart(opened, made):
    opened.locator(".flow .block").nth(1).click()
    assert np.allclose(shown(opened)[1], made.explanation["daam"].flow[0, 1], rtol=1e-6, atol=1e-7)


def test_a_typed_class_is_shown(opened, made):
    before = drawn(opened)
    field = opened.get_by_role("combobox", name="class", exact=True)
    field.fill("thing 3")
    title, values = shown(opened)
    assert title == "class lens: thing 3"
    expected = made.evidence[3][0]
    assert np.allclose(values, expected, atol=2e-4 * float(expected.abs().max()))
    assert drawn(opened) != before
    field.fill("equus")
    field.press("Enter")
    assert shown(opened)[0] == "class lens: Zebra, Equus"
    assert field.input_value() == "Zebra, Equus"
    field.fill("no such thing")
    assert opened.get_by_text("no class is called so").is_visible()
    field.press("Tab")
    assert field.input_value() == "Zebra, Equus"


def test_a_class_is_found_by_its_number_and_the_arrow_keys(opened, made):
    field = opened.get_by_role("combobox", name="class", exact=True)
    field.click()
    first = opened.locator(".options li").first.text_content()
    assert first.startswith(NAMES[int(made.explanation.logits[0].argmax())])
    field.fill("5")
    field.press("Enter")
    assert shown(opened)[0] == "class lens: thing 5"
    field.fill("thing")
    field.press("ArrowDown")
    selected = opened.locator('[role=option][aria-selected="true"]')
    assert field.get_attribute("aria-activedescendant") == selected.get_attribute("id")
    words = selected.locator("span").text_content()
    field.press("Enter")
    assert shown(opened)[0] == f"class lens: {words}"


def test_two_classes_are_contrasted(opened, made):
    opened.get_by_role("combobox", name="class", exact=True).fill("thing 2")
    opened.get_by_role("combobox", name="rather than").fill("thing 6")
    title, values = shown(opened)
    assert title == "class lens: thing 2 rather than thing 6"
    expected = made.evidence.contrast(2, 6)[0]
    assert np.allclose(values, expected, atol=5e-4 * float(expected.abs().max()))
    opened.get_by_role("combobox", name="rather than").fill("")
    assert shown(opened)[0] == "class lens: thing 2"


def told_of(words):
    """The number that a page's words mean, and how exact they are: "0.0123", or "1.7·10⁻⁴"."""
    factor, _, power = unicodedata.normalize("NFKC", words).replace("−", "-").partition("·10")
    return float(factor) * 10.0 ** int(power or 0), 0.06 if power else 0.006


def test_hovering_tells_the_classes_that_a_patch_speaks_for_and_against(opened, made):
    for row, col in ((0, 0), (1, 2), (3, 3)):
        at_patch(opened, row, col)
        favoured, opposed = opinions(made, 0, row, col)
        assert [index for index, _ in listed(opened, 0, "for")][: len(favoured)] == favoured
        assert [index for index, _ in listed(opened, 0, "against")][: len(opposed)] == opposed
        assert all(NAMES[index] in words for index, words in listed(opened, 0, "for"))
        readout = opened.locator(".readout").text_content()
        assert f"Row {row + 1}, column {col + 1}" in readout
        value = float(made.explanation["daam"].values[0, row, col])
        told, bound = told_of(readout.rpartition("daam: ")[2])
        assert told == pytest.approx(value, rel=bound)


def test_a_brushed_region_ranks_the_classes(opened, made):
    opened.get_by_role("button", name="brush a region").click()
    at_patch(opened, 1, 0)
    opened.mouse.down()
    at_patch(opened, 1, 3)  # at once: what lies between is gathered too
    opened.mouse.up()
    sums = made.evidence.all()[0][:, 1, :].sum(1)
    expected = [index for index in sums.argsort(descending=True).tolist() if sums[index] > 0][:5]
    assert [index for index, _ in listed(opened, 1, "for")] == expected
    assert opened.get_by_text("These 4 patches together speak for").is_visible()
    opened.get_by_role("button", name="clear the region").click()
    assert listed(opened, 1, "for") == []


def test_a_class_of_a_list_is_taken_up(opened, made):
    at_patch(opened, 2, 1)
    index, _ = listed(opened, 0, "for")[0]
    opened.locator(".opinions").first.locator("button.for").first.click()
    assert shown(opened)[0] == f"class lens: {NAMES[index]}"


def test_the_keyboard_is_enough(opened, made):
    stage = opened.get_by_role("application").first
    stage.focus()
    stage.press("ArrowRight")
    stage.press("ArrowDown")
    assert "Row 4, column 3" in opened.locator(".readout").text_content()
    stage.press("Space")
    stage.press("Shift+ArrowLeft")
    sums = made.evidence.all()[0][:, 3, 1:3].sum(1)
    assert listed(opened, 1, "for")[0][0] == int(sums.argmax())
    stage.press("Escape")
    assert listed(opened, 1, "for") == []


def test_two_maps_with_a_wipe_and_side_by_side(opened, made):
    opened.get_by_role("radio", name="wipe").check()
    opened.get_by_label("second map").select_option("cdam")
    assert [shown(opened, 0)[0], shown(opened, 1)[0]] == ["daam", "cdam"]
    opened.get_by_label("wipe between the maps").fill("0.25")
    clips = opened.locator(".stage .layer").evaluate_all("all => all.slice(0, 2).map(c => c.style.clipPath)")
    assert clips == ["inset(0px 75% 0px 0px)", "inset(0px 0px 0px 25%)"]
    opened.get_by_role("radio", name="side by side").check()
    assert [stage.is_visible() for stage in opened.locator(".stage").all()] == [True, True]
    at_patch(opened, 1, 1)
    pointed = opened.locator(".marks .pointed:not(.back)")
    assert pointed.count() == 2
    readout = opened.locator(".readout").text_content()
    assert "daam:" in readout
    assert "cdam:" in readout


def test_palette_opacity_scale_and_exact_patches(opened):
    opened.get_by_text("Colours and scale").click()
    seen = [drawn(opened)]
    opened.get_by_label("palette", exact=True).select_option("viridis")
    seen.append(drawn(opened))
    opened.get_by_label("opacity").fill("0.9")
    seen.append(drawn(opened))
    opened.get_by_label("colours end at").select_option("1")
    seen.append(drawn(opened))
    assert len({pixels for _, _, pixels in seen}) == 4
    opened.get_by_role("radio", name="exact patches").check()
    assert drawn(opened)[:2] == [4, 4]
    opened.get_by_label("map", exact=True).select_option("cdam")
    red = drawn(opened)
    opened.get_by_label("palette of signed maps").select_option("PuOr_r")
    assert drawn(opened) != red


def test_the_gallery_changes_the_picture(opened, made):
    opened.get_by_role("combobox", name="class", exact=True).fill("thing 4")
    opened.locator(".gallery button").nth(1).click()
    assert opened.get_by_role("heading", level=2).text_content() == "b.png"
    opened.get_by_label("map", exact=True).select_option("agcam")
    assert np.array_equal(shown(opened)[1], made.explanation["agcam"].values[1])
    at_patch(opened, 0, 3)
    favoured, _ = opinions(made, 1, 0, 3)
    assert [index for index, _ in listed(opened, 0, "for")][: len(favoured)] == favoured


def test_the_window_lies_where_the_model_looked(opened, made):
    box = opened.locator(".stage .window").first.bounding_box()
    whole = opened.locator(".stage").first.bounding_box()
    inside = made.explanation.subject.geometries[0].inside()
    rows, cols = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    height, width = inside.shape
    assert (box["y"] - whole["y"]) / whole["height"] == pytest.approx(float(rows[0]) / height, abs=1 / height)
    assert box["height"] / whole["height"] == pytest.approx(len(rows) / height, abs=2 / height)
    assert (box["x"] - whole["x"]) / whole["width"] == pytest.approx(float(cols[0]) / width, abs=1 / width)
    assert box["width"] / whole["width"] == pytest.approx(len(cols) / width, abs=2 / width)


def test_names_are_texts_never_markup(opened, made):
    assert opened.locator("img[src=x]").count() == 0
    field = opened.get_by_role("combobox", name="class", exact=True)
    field.fill("onerror")
    field.press("Enter")
    assert shown(opened)[0] == f"class lens: {NAMES[7]}"
    assert opened.locator(".bars figcaption").text_content() == f"class lens: {NAMES[7]}"


def test_json_cannot_leave_its_script():
    text = as_script({"a": "</script><!--\u2028&"})
    assert not re.search(r"[<>&\u2028]", text)
    assert json.loads(text) == {"a": "</script><!--\u2028&"}


def test_every_control_has_a_name(opened):
    """For those who listen: buttons, fields, sliders and pictures say what they are."""
    nameless = opened.evaluate(
        """() => [...document.querySelectorAll("button, input, select, img, canvas[role], svg[role], [tabindex]")]
        .filter(node => node.offsetParent !== null && !node.closest("[hidden]"))
        .filter(node => !(node.getAttribute("aria-label") || node.textContent.trim() || node.labels?.length
                          || node.getAttribute("alt") !== null))
        .map(node => node.outerHTML.slice(0, 200))"""
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_in_light_and_dark_and_on_a_phone(browser, made, scheme):
    """Contrast of at least 4.5 to 1 (WCAG AA), and nothing wider than the phone."""
    with watched(
        browser, viewport={"width": 360, "height": 740}, color_scheme=scheme, is_mobile=True, has_touch=True
    ) as seen:
        page = seen.page
        page.goto(made.path)
        page.wait_for_selector("html[data-ready]")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        colours = page.evaluate(
            """names => { const style = getComputedStyle(document.documentElement);
            return Object.fromEntries(names.map(name => [name, style.getPropertyValue("--" + name).trim()])); }""",
            ["ink", "faint", "paper", "card", "accent", "on-accent", "for", "against"],
        )
        for ink, ground in (
            ("ink", "paper"),
            ("ink", "card"),
            ("faint", "paper"),
            ("faint", "card"),
            ("on-accent", "accent"),
            ("ink", "for"),
            ("ink", "against"),
            ("accent", "paper"),
        ):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        page.locator(".stage").first.tap()
        assert listed(page, 0, "for")
        assert seen.said == []


def contrast(first, second):
    """WCAG's ratio of two #rrggbb colours."""

    def luminance(colour):
        parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_the_theme_can_be_turned(opened):
    ground = "getComputedStyle(document.body).backgroundColor"
    before = opened.evaluate(ground)
    button = opened.get_by_role("button", name="colours of the page")
    button.click()
    button.click()
    assert opened.evaluate(ground) != before


def test_without_methods_or_lens_the_page_says_what_is_missing(browser, tmp_path):
    model = build(num_classes=0)
    explainer = Explainer(model)
    explanation = explainer(torch.randn(1, 3, 32, 32), "attention,rollout")
    content = content_of(explanation, lens_of(explainer, explanation.subject.batch))
    (tmp_path / "r.html").write_text(report_page(content["pictures"], content["shared"]))
    with watched(browser) as seen:
        seen.page.goto(f"file://{tmp_path}/r.html")
        seen.page.wait_for_selector("html[data-ready]")
        assert seen.page.get_by_text("There is none here: the model has no classifier.").is_visible()
        assert not seen.page.get_by_text("Evolution over the blocks").is_visible()
        at_patch(seen.page, 1, 1)
        assert "attention:" in seen.page.locator(".readout").text_content()
        assert seen.said == []
