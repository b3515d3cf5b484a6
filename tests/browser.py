"""A browser to look at pages with: Chromium where it is installed; else the tests that need one skip, and say why."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def where() -> str | None:
    """The program: VITSCOPE_BROWSER, or one of the usual names."""
    named = os.environ.get("VITSCOPE_BROWSER")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser():
    program = where()
    if program is None:
        pytest.skip("no Chromium; install it (apt install chromium), or name one in VITSCOPE_BROWSER")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@dataclass
class Watched:
    """A page with what it said and asked for."""

    page: object
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@contextmanager
def watched(browser, **options) -> Iterator[Watched]:
    """A page in a context of its own; what goes wrong in it, or leaves it, is written down."""
    context = browser.new_context(**options)
    page = context.new_page()
    seen = Watched(page)
    page.on("console", lambda message: _note(seen, f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen.said.append(f"error: {error}"))
    page.on("request", lambda request: seen.asked.append(request.url))
    try:
        yield seen
    finally:
        context.close()


def _note(seen: Watched, line: str) -> None:
    if "willReadFrequently" not in line:  # said of the tests' own reading of canvases
        seen.said.append(line)
