"""How quick a report is, and how large: `python benchmarks/report.py --help`. Needs Chromium (VITSCOPE_BROWSER).

One photograph, or noise where none is named, explained by the named methods; the page is opened from its file again and
again, each time in a fresh context. Times are the browser's own: from the start of navigation to the first map on its
canvas; and, in the opened page, from the event to the frame after the drawing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from vitscope import Explainer
from vitscope.report import content_of, lens_of
from vitscope.report.page import report_page

TIMED = """async action => {
  const frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  const times = [];
  for (let i = 0; i < 20; i++) { await frame(); const start = performance.now(); action(i); await frame();
    times.push(performance.now() - start); }
  return times; }"""

ACTIONS = {
    "a class switch": "i => { vitscope.lens.choose((i * 37 + 5) % %d, null); vitscope.set({first: '@lens'}); }",
    "a method switch": "i => vitscope.set({first: vitscope.record.methods[i % vitscope.record.methods.length].label})",
    "a block": "i => { const s = document.querySelector('.evolution input[type=range]');"
    " s.value = i % s.max + 1; s.dispatchEvent(new Event('input')); }",
    "a hovered patch": "i => vitscope.stages[0].point({row: i % vitscope.drawn[0].rows, col: 1})",
}


def main() -> None:
    arguments = _arguments()
    explainer = Explainer(arguments.model, arguments.weights, pretrained=arguments.pretrained)
    picture = arguments.picture or Image.fromarray(np.random.default_rng(0).integers(0, 255, (375, 500, 3), np.uint8))
    explanation = explainer(picture, arguments.methods, strict=False)
    content = content_of(explanation, lens_of(explainer, explanation.subject.batch))
    page = report_page(content["pictures"], content["shared"])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        file.write_text(page, encoding="utf-8")
        measured = measure(file, arguments.rounds)
    found = {
        "model": arguments.model,
        "methods": list(explanation),
        "lens": content["pictures"][0]["lens"]["form"],
        "bytes": len(page.encode()),
        "milliseconds": {
            name: {"median": statistics.median(times), "highest": max(times)} for name, times in measured.items()
        },
    }
    print(json.dumps(found, indent=1))


def measure(file: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of opening, and of each action."""
    program = os.environ.get("VITSCOPE_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    times: dict[str, list[float]] = {"opening": []}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for _ in range(rounds):
            context = browser.new_context(bypass_csp=True)
            page = context.new_page()
            page.goto(file.as_uri())
            page.wait_for_selector("html[data-ready]")
            times["opening"].append(float(page.evaluate("+document.documentElement.dataset.ready")))
            context.close()
        page = browser.new_page(bypass_csp=True)
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]")
        classes = page.evaluate("Object.values(vitscope.shared)[0].classes.length")
        for name, action in ACTIONS.items():
            times[name] = page.evaluate(f"({TIMED})({action.replace('%d', str(classes))})")
        browser.close()
    return times


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="timm/vit_tiny_patch16_224")
    parser.add_argument("--weights", help="otherwise random, or --pretrained")
    parser.add_argument("--pretrained", action="store_true")
    parser.add_argument("--picture", help="otherwise noise of 500 x 375")
    parser.add_argument("--methods", default="daam,agcam,cdam,attention,rollout,gradcam,chefer")
    parser.add_argument("--rounds", type=int, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    main()
