"""Photographs the report and the server's page, with bundled scenes and model: python docs/make_screenshots.py.

Needs Chromium (VITSCOPE_BROWSER) and the extras web and dev.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.serve import Live

from vitscope import Explainer
from vitscope.datasets import Scenes
from vitscope.report import content_of, lens_of
from vitscope.report.page import report_page

HERE = Path(__file__).parent / "pictures"
METHODS = "daam,agcam,cdam,attention,rollout,gradcam,center"
SHOWN = (25, 21, 6, 14, 3, 30)
WIDE = {"width": 1280, "height": 860}


def pictures() -> list[Image.Image]:
    """Scenes with two things, four times their size, as photographs would be."""
    scenes = Scenes(40, "two", seed=13)
    return [Image.fromarray(scenes[index].image).resize((384, 384), Image.Resampling.BICUBIC) for index in SHOWN]


def patch(page: Page, row: int, col: int, cells: int = 12) -> None:
    """Move the mouse to a patch."""
    box = page.locator(".stage .window").first.bounding_box()
    assert box
    page.mouse.move(box["x"] + (col + 0.5) / cells * box["width"], box["y"] + (row + 0.5) / cells * box["height"])


def keep(page: Page, name: str) -> None:
    """As WebP, since a README is fetched."""
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(HERE / f"{name}.webp", quality=82, method=6)


def main() -> None:
    explainer, images = Explainer("scenes"), pictures()
    explanation = explainer(images, METHODS)
    content = content_of(explanation, lens_of(explainer, explanation.subject.batch))
    for index, record in enumerate(content["pictures"]):
        record["name"] = f"scene {index + 1}"
    program = os.environ.get("VITSCOPE_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder, Live() as live:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        file = Path(folder) / "report.html"
        file.write_text(report_page(content["pictures"], content["shared"]), encoding="utf-8")
        report(browser.new_page(viewport=WIDE), file.as_uri(), str(explanation.subject.names[other(explanation)]))
        phone(browser.new_page(viewport={"width": 390, "height": 860}, device_scale_factor=1.5), file.as_uri())
        server(browser.new_page(viewport=WIDE), live.address, images[0])
        browser.close()


def other(explanation) -> int:  # type: ignore[no-untyped-def]
    """The class of the first picture's second thing: the second highest logit."""
    return int(explanation.logits[0].topk(2).indices[1])


def report(page: Page, address: str, name: str) -> None:
    """A method beside the lens of another class, a patch pointed at; then a wipe at an earlier block, in the dark."""
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    page.get_by_role("radio", name="side by side").check()
    page.get_by_label("second map").select_option("@lens")
    field = page.get_by_role("combobox", name="class", exact=True)
    field.fill(name)
    field.press("Enter")
    page.get_by_label("map", exact=True).select_option("daam")
    page.evaluate("scrollTo(0, 0)")
    patch(page, 3, 2)
    page.set_viewport_size({"width": 1280, "height": 1000})
    keep(page, "report")
    page.emulate_media(color_scheme="dark")
    page.locator(".gallery button").nth(4).click()
    page.get_by_role("radio", name="wipe").check()
    page.get_by_label("second map").select_option("cdam")
    page.get_by_label("wipe between the maps").fill("0.36")
    page.get_by_role("slider", name="block", exact=True).fill("9")
    page.evaluate("scrollTo(0, 0)")
    page.set_viewport_size({"width": 1280, "height": 1000})
    keep(page, "report-dark")


def phone(page: Page, address: str) -> None:
    """What a phone shows first."""
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    page.locator(".gallery button").nth(1).click()
    keep(page, "report-phone")


def server(page: Page, address: str, image: Image.Image) -> None:
    """The form, with a picture and its answer."""
    content = io.BytesIO()
    image.save(content, "PNG")
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    page.get_by_label("pictures to explain", exact=True).set_input_files(
        [{"name": "scene.png", "mimeType": "image/png", "buffer": content.getvalue()}]
    )
    page.get_by_role("button", name="Explain", exact=True).click()
    page.locator(".viewer:not([hidden])").wait_for()
    page.wait_for_timeout(900)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(300)
    keep(page, "server")


if __name__ == "__main__":
    main()
