"""The server's page in a browser: a picture in, its maps to look at, and a clear line for what is refused."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from tests.browser import watched

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("browser")]


@pytest.fixture
def page(browser, live):
    """The page of a live server, watched: it may say nothing and ask nobody else."""
    with (
        live(body_bytes=2**20, pictures=3) as address,
        watched(browser, viewport={"width": 1280, "height": 1000}) as seen,
    ):
        seen.page.goto(address)
        seen.page.wait_for_selector("html[data-ready]")
        seen.page.get_by_role("button", name="Explain", exact=True).wait_for()
        yield seen.page
        refused = [line for line in seen.said if re.search(r"status of (413|415|422)", line)]  # the browser's own words
        assert [line for line in seen.said if line not in refused] == []
        assert [url for url in seen.asked if not url.startswith((address, "data:", "blob:"))] == []


def png(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def upload(page, *files, field="pictures to explain"):
    """Choose files: (name, content) each."""
    chosen = [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in files]
    page.get_by_label(field, exact=True).set_input_files(chosen)


def explained(page):
    page.get_by_role("button", name="Explain", exact=True).click()
    page.locator(".viewer:not([hidden])").wait_for()
    page.get_by_role("button", name="Explain", exact=True).is_enabled()


def refusal(page):
    page.get_by_role("button", name="Explain", exact=True).click()
    page.locator(".failure:not(:empty)").wait_for()
    return page.get_by_role("alert").text_content()


def shown(page):
    title, rows, cols, values = page.evaluate(
        "() => { const d = vitscope.shown(0); return [d.title, d.rows, d.cols, [...d.values]]; }"
    )
    return title, np.reshape(values, (rows, cols))


def test_a_picture_is_explained_and_its_classes_are_at_hand(page, explainer, scene):
    upload(page, ("mine.png", png(scene(0))))
    explained(page)
    expected = explainer([scene(0)], "daam,agcam,cdam")
    assert page.get_by_role("heading", level=2).text_content() == "mine.png"
    title, values = shown(page)
    assert np.allclose(values, expected[title].values[0], rtol=1e-4, atol=1e-7)
    evidence = explainer.evidence([scene(0)])
    name = explainer.names[3]
    page.get_by_role("combobox", name="class", exact=True).fill(name)
    title, values = shown(page)
    assert title == f"class lens: {name}"
    assert np.allclose(values, evidence[3][0], atol=5e-4 * float(evidence[3].abs().max()))


def test_methods_and_target_are_chosen(page, explainer, scene):
    page.get_by_text("Methods").click()
    for name in ("daam", "agcam", "cdam"):
        page.get_by_role("checkbox", name=name, exact=True).uncheck()
    page.get_by_role("checkbox", name="input_x_gradient", exact=True).check()
    page.get_by_role("checkbox", name="cdam", exact=True).check()
    asked = int(explainer([scene(2)], "attention").subject.logits[0].argmin())  # not the predicted one
    page.get_by_label("target").fill(explainer.names[asked])
    upload(page, ("a.png", png(scene(1))), ("b.png", png(scene(2))))
    explained(page)
    assert page.get_by_label("map", exact=True).locator("option").all_text_contents() == [
        "cdam",
        "input_x_gradient",  # of every class: Grad-CAM is refused where a class has no map
        "class lens",
    ]
    page.get_by_label("map", exact=True).select_option("cdam")
    page.locator(".gallery button").nth(1).click()
    expected = explainer([scene(2)], "cdam", asked)["cdam"].values[0]
    assert np.allclose(shown(page)[1], expected, rtol=1e-4, atol=1e-6)
    assert "explained: " + explainer.names[asked] in page.locator(".said").text_content()


def test_several_pictures_are_a_concept(page, explainer, scene):
    page.get_by_text("A concept instead of a class").click()
    upload(page, *((f"{n}.png", png(scene(n))) for n in (4, 5, 6)), field="pictures of a concept")
    assert page.get_by_label("target").is_disabled()
    upload(page, ("a.png", png(scene(1))))
    explained(page)
    assert "concept" in page.locator(".facts").text_content()


def test_a_pasted_picture_is_taken(page, scene):
    page.evaluate(
        """async bytes => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "pasted.png", {type: "image/png"}));
        document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true})); }""",
        list(png(scene(3))),
    )
    explained(page)
    assert page.get_by_role("heading", level=2).text_content() == "pasted.png"


def test_a_dropped_picture_is_taken(page, scene):
    page.evaluate(
        """bytes => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
        document.querySelector(".drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true})); }""",
        list(png(scene(3))),
    )
    assert page.locator(".chosen li").count() == 1
    explained(page)
    assert page.get_by_role("heading", level=2).text_content() == "dropped.png"


def bomb():
    """A PNG of 100 megapixels in some kilobytes."""
    return png(Image.new("1", (10_000, 10_000)))


def noise():
    """More than a body may be."""
    return png(Image.fromarray(np.random.default_rng().integers(0, 255, (700, 800, 3), dtype=np.uint8)))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("notes.txt", lambda: b"no picture at all", "notes.txt: not a picture"),
        ("bomb.png", bomb, "100.0 megapixels|100 megapixels"),
        ("large.png", noise, r"1\.\d MB of pictures are too much, at most 1\.0 MB are taken"),
        ("cut.png", lambda: png(Image.new("RGB", (400, 300)))[:300], "cut.png: the file is damaged"),
    ],
)
def test_what_is_refused_is_told_and_the_next_picture_goes_through(page, scene, name, content, says):
    upload(page, (name, content()))
    assert re.search(says, refusal(page))
    page.get_by_role("button", name=f"take away {name}").click()
    upload(page, ("good.png", png(scene(7))))
    explained(page)
    assert page.locator(".failure").text_content() == ""
    assert page.get_by_role("heading", level=2).text_content() == "good.png"


def test_nothing_is_sent_without_a_picture_or_for_no_such_class(page, scene):
    assert refusal(page) == "choose a picture first"
    upload(page, ("a.png", png(scene(1))))
    page.get_by_label("target").fill("no such class")
    assert "no such class" in refusal(page)


def test_a_job_can_be_stopped(page, held, scene):
    upload(page, ("a.png", png(scene(1))))
    page.get_by_role("button", name="Explain", exact=True).click()
    held.entered.wait(30)
    page.get_by_role("button", name="stop").click()
    page.get_by_text("Stopped.").wait_for()
    held.go.set()
    explained(page)
    assert page.get_by_role("heading", level=2).text_content() == "a.png"
