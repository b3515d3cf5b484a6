"""Results in a notebook: framed pages, tried in a real browser and a real kernel; and their one-line texts."""

from __future__ import annotations

import html
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitscope
from tests.conftest import build, pictures
from vitscope.datasets import Scenes
from vitscope.errors import ImageError, ModelError
from vitscope.report.notebook import HEIGHT, MOST

NAMES = vitscope.ClassNames(("a <b>", "c & d", '"e"', "f'", "g</script>", "h", "i"))


class Frames(HTMLParser):
    """The attributes of every frame, unescaped, and the text around them."""

    def __init__(self, text):
        super().__init__()
        self.found, self.words = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "iframe":
            self.found.append(dict(attributes))

    def handle_data(self, data):
        self.words += data


def photos(count, seed=None):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (40, 40 + 3 * n, 3), dtype=np.uint8)) for n in range(count)]


@pytest.fixture(scope="module")
def explainer():
    return vitscope.Explainer(build(), labels=NAMES)


@pytest.fixture(scope="module")
def explanation(explainer):
    return explainer(photos(2), "daam,cdam,attention")


@pytest.fixture(scope="module")
def scenes():
    """A trained model's explanation and evidence of two scenes."""
    images = [scene.image for scene in Scenes(2, "two", seed=5)]
    explainer = vitscope.Explainer("scenes")
    return explainer(images, "daam,cdam"), explainer.evidence(images)


def test_the_frame_holds_the_page_and_nothing_leaves_it(explanation):
    text = explanation._repr_html_()
    (frame,) = Frames(text).found
    assert frame["sandbox"] == "allow-scripts"
    assert "width:100%" in frame["style"]
    assert f"height:{HEIGHT}px" in frame["style"]
    page = frame["srcdoc"]
    assert page.startswith("<!DOCTYPE html>")
    assert page.rstrip().endswith("</html>")
    assert text.count("<") == text.count(">") == 2  # the frame alone
    assert not re.search(
        r"localStorage|sessionStorage|document\.cookie|indexedDB|parent\.|top\.", page.split("<main")[1]
    )
    assert Frames(text).words == ""


def test_a_page_of_one_method(explanation):
    (frame,) = Frames(explanation["cdam"]._repr_html_()).found
    assert '"label":"cdam"' in frame["srcdoc"]
    assert '"label":"daam"' not in frame["srcdoc"]


def test_many_pictures_are_bounded(explainer):
    many = explainer(photos(MOST + 3), "daam,attention")
    for shown in (many, many["attention"], explainer.evidence(photos(MOST + 3))):
        one = Frames(shown._repr_html_())
        (frame,) = one.found
        assert frame["srcdoc"].count('"schema_version":') == MOST
        assert f"first {MOST} of {MOST + 3} pictures are shown, 3 are left out" in one.words
    assert many.html().count('"schema_version":') == MOST + 3
    assert len(many) == len(many["daam"].values) == MOST + 3


def test_a_photograph_takes_little_room():
    rows, cols = np.mgrid[0:224, 0:224]
    grain = np.random.default_rng().normal(0, 8, (224, 224, 3))
    photo = np.stack([128 + 100 * np.sin(rows / 17), 128 + 90 * np.cos(cols / 23), rows * 1.0], -1) + grain
    explainer = vitscope.Explainer("timm/vit_tiny_patch16_224", pretrained=False)
    image = Image.fromarray(photo.clip(0, 255).astype(np.uint8))
    explanation, evidence = explainer(image, "daam,agcam,cdam"), explainer.evidence(image)
    sizes = {
        "explanation": len(explanation._repr_html_()),
        "attribution": len(explanation["daam"]._repr_html_()),
        "evidence": len(evidence._repr_html_()),
        "explanation with evidence": len(explanation.html(evidence)._repr_html_()),
    }
    assert max(sizes.values()) < 3e6, sizes


def test_the_page_as_text(explanation, explainer, tmp_path):
    page = explanation.html()
    assert isinstance(page, str)
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    assert '"form":"none"' in page
    assert len(repr(page)) < 120
    (frame,) = Frames(page._repr_html_()).found
    assert frame["srcdoc"] == page
    with_lens = explanation.html(explainer.evidence(explanation.subject.batch))
    assert '"form":"none"' not in with_lens


def test_evidence_of_something_else_is_refused(explainer):
    same = photos(2, seed=4)
    explanation = explainer(same, "cdam")
    assert explanation.html(explainer.evidence(same))
    probed = [
        (ImageError, "of 1 images and the explanation of 2", explainer.evidence(same[:1])),
        (ImageError, r"image 0 is of another picture \(they are 40 x 43 and 40 x 40", explainer.evidence(same[::-1])),
        (ImageError, "image 1 is of another picture;", explainer.evidence([same[0], photos(2, seed=9)[1]])),
        (ModelError, "another model: its outputs", vitscope.Explainer(build(seed=8)).evidence(same)),
        (ModelError, "with 5 outputs, .* with 7", vitscope.Explainer(build(num_classes=5)).evidence(same)),
    ]
    for kind, says, evidence in probed:
        with pytest.raises(kind, match=says) as caught:
            explanation.html(evidence)
        assert "\n" not in str(caught.value)
        assert "explainer.evidence(images)" in str(caught.value)
    other = vitscope.Explainer(build(), preprocessing={"crop_pct": 0.5})
    with pytest.raises(ImageError, match="prepared otherwise"):
        explanation.html(other.evidence(same))


def test_a_model_without_a_classifier():
    model = build(num_classes=0)
    explainer = vitscope.Explainer(model)
    explanation, evidence = explainer(pictures(model), "attention"), explainer.evidence(pictures(model))
    assert evidence._repr_html_() is None
    assert repr(evidence).startswith("Evidence(24 outputs, 2 images")
    assert "the model has no classifier" in explanation.html(evidence)


def test_texts_are_one_line(explanation, explainer):
    line = "2 images, 4 x 4 patches, target: the predicted class, model: VisionTransformer"
    assert repr(explanation) == f"Explanation(daam, cdam, attention: {line})"
    assert repr(explanation["daam"]) == f"Attribution(daam (2, 4, 4) in 3 blocks, {line})"
    assert repr(explanation.subject) == f"Subject({line})"
    assert repr(explainer.evidence(photos(1))).startswith("Evidence(7 classes, 1 image, 4 x 4 patches")
    every = explainer(photos(1), "all", 3, max_forwards=4, strict=False)
    assert len(every.attributions) > 6
    assert every.failures
    assert "more, without " in repr(every)
    assert len(repr(explainer(photos(40), "cdam", list(range(7)) * 5 + [0] * 5))) < 200
    assert "model: scenes," not in repr(explanation)
    assert "tensor(" not in repr([explanation, every, explanation.subject])


def opened(browser, text):
    """A notebook's output cell in a browser: the frame, once its script has run, and the errors of the page."""
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.set_content(f"<body>{text}</body>")
    frame = page.frame_locator("iframe")
    frame.locator("html[data-ready]").wait_for(state="attached", timeout=20_000)
    return page, frame, errors


def drawn(frame):
    """How much of the first layer is covered."""
    return frame.locator("canvas[data-layer='0']").first.evaluate(
        "canvas => canvas.hidden ? 0 : canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)"
        ".data.filter((value, place) => place % 4 === 3 && value > 20).length"
    )


def test_a_framed_explanation_is_interactive(browser, scenes):
    explanation, evidence = scenes
    page, frame, errors = opened(browser, explanation.html(evidence)._repr_html_())
    assert frame.locator("h2").inner_text() == "image-0"
    assert drawn(frame) > 100
    assert frame.locator("select[aria-label=map] option").all_inner_texts() == ["daam", "cdam", "class lens"]
    frame.locator(".gallery button").nth(1).click()
    assert frame.locator("h2").inner_text() == "image-1"
    frame.get_by_role("combobox", name="class", exact=True).fill(explanation.subject.names[3])
    assert explanation.subject.names[3] in frame.locator("figcaption").first.inner_text()
    frame.locator("button.theme").click()
    assert frame.locator("html").get_attribute("data-theme") == "light"
    reached = page.frames[1].evaluate("() => { try { return Boolean(parent.document); } catch { return false; } }")
    assert not reached
    assert errors == []
    page.close()


def test_framed_evidence_is_the_class_lens_alone(browser, scenes):
    _, evidence = scenes
    page, frame, errors = opened(browser, evidence._repr_html_())
    assert frame.locator("select[aria-label=map] option").all_inner_texts() == ["class lens"]
    assert frame.locator("h3:visible").all_inner_texts() == ["Class lens", "What was explained"]
    assert drawn(frame) > 100
    stage = frame.locator(".stage").first
    stage.focus()
    page.keyboard.press("ArrowRight")
    row, col = map(int, re.findall(r"Row (\d+), column (\d+)", frame.locator(".readout").inner_text())[0])
    speaks, _ = evidence.patch(row - 1, col - 1)[0]
    shown = frame.locator(".opinions").first.locator("button.for span").all_inner_texts()
    assert shown == [one.name for one in speaks]
    for mode in ("wipe", "side by side", "one map"):
        frame.get_by_role("radio", name=mode, exact=True).check()
    assert errors == []
    page.close()


def test_an_explanation_without_maps_tells_why(browser, explanation):
    nothing = vitscope.Explanation(explanation.subject, {}, {"chefer": "chefer is <b>not</b> defined"})
    assert repr(nothing).startswith("Explanation(no map, without chefer: 2 images")
    page, frame, errors = opened(browser, nothing._repr_html_())
    assert "chefer is <b>not</b> defined" in frame.locator(".facts").inner_text().replace("chefer: ", "chefer ")
    assert "no map of this picture" in frame.locator(".readout").inner_text()
    frame.locator(".gallery button").nth(1).click()
    frame.locator(".stage").first.hover()
    assert errors == []
    page.close()


def test_what_ipython_makes_of_results(explanation, explainer):
    formatters = pytest.importorskip("IPython.core.formatters", reason="results are shown by IPython")
    show = formatters.DisplayFormatter().format
    evidence = explainer.evidence(explanation.subject.batch)
    for shown, line in (
        (explanation, "Explanation(daam"),
        (explanation["cdam"], "Attribution(cdam"),
        (evidence, "Evidence(7 classes"),
        (explanation.html(evidence), "<a page of"),
    ):
        data, _ = show(shown)
        assert data.keys() == {"text/plain", "text/html"}
        assert data["text/plain"].startswith(line)
        assert "\n" not in data["text/plain"]
        assert len(Frames(data["text/html"]).found) == 1
    headless = vitscope.Explainer(build(num_classes=0)).evidence(explanation.subject.batch)
    assert show(headless)[0].keys() == {"text/plain"}


NOTEBOOK = """
import vitscope
from vitscope.datasets import Scenes
explainer = vitscope.Explainer("scenes")
images = [scene.image for scene in Scenes(2, "two", seed=5)]
explanation = explainer(images, "daam,cdam")
explanation
---
explanation["cdam"]
---
evidence = explainer.evidence(images)
evidence
---
explanation.html(evidence)
"""


@pytest.mark.slow
def test_a_real_notebook(browser, tmp_path, monkeypatch):
    """Executed by a kernel; each cell's output is a frame for a reader and one line for a text."""
    nbformat = pytest.importorskip("nbformat", reason="a notebook is written with nbformat")
    nbclient = pytest.importorskip("nbclient", reason="a notebook is executed by nbclient")
    pytest.importorskip("ipykernel", reason="a notebook needs a kernel")
    monkeypatch.setenv("PYTHONPATH", str(Path(vitscope.__file__).parents[1]), prepend=os.pathsep)
    cells = [nbformat.v4.new_code_cell(part.strip()) for part in NOTEBOOK.split("---")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for cell, kind in zip(notebook.cells, ("Explanation(", "Attribution(", "Evidence(", "<a page"), strict=True):
        (output,) = [one for one in cell.outputs if one.output_type != "stream"]
        assert output.output_type == "execute_result", output
        assert output.data["text/plain"].startswith(kind)
        page, frame, errors = opened(browser, output.data["text/html"])
        assert drawn(frame) > 100
        assert errors == []
        page.close()


def test_values_are_not_touched(explanation):
    before = {label: one.values.clone() for label, one in explanation.attributions.items()}
    explanation._repr_html_()
    assert all(torch.equal(explanation[label].values, values) for label, values in before.items())
    assert html.escape(NAMES[0]) not in explanation.html()  # in a script, texts are not HTML


def test_the_documentation_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "notebooks.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    known = {}
    for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(code, known)
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == known["explanation"].html(known["evidence"])
    assert f"    {known['explanation']!r}\n" in page
    assert f"the first {'eight' if MOST == 8 else MOST} are shown" in page
