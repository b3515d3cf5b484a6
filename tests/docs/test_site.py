"""The site: every page in its tree, every link leads somewhere, nothing comes from another machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.browser import watched
from tests.test_docs import ROOT

for needed in ("sphinx", "furo", "myst_nb"):
    pytest.importorskip(needed, reason=f"{needed} is not installed; pip install -e '.[docs]'")

DOCS = ROOT / "docs"
pytestmark = [pytest.mark.xdist_group("site"), pytest.mark.slow]  # one build for all; `make docs` builds it in CI


def build(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Build the site; a warning is an error."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", *options, str(DOCS), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as files, its notebooks as they are kept."""
    out = tmp_path_factory.mktemp("site")
    done = build(out, "-D", "nb_execution_mode=off", "-d", str(tmp_path_factory.mktemp("trees")))
    assert done.returncode == 0, done.stderr[-4000:]
    return out


class Page(HTMLParser):
    """What a page points to, and what can be pointed at in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        has = dict(attrs)
        self.anchors |= {has[key] for key in ("id", "name") if has.get(key)}
        if tag == "a" and "href" in has:
            self.links.append(has["href"])
        elif tag == "link" and has.get("rel") not in {"index", "search", "next", "prev", "canonical"}:
            self.loaded.append(has["href"])
        elif has.get("src"):
            self.loaded.append(has["src"])
        self.loaded += re.findall(r"url\(([^)]+)\)", has.get("style") or "")


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}


def test_the_site_is_built_without_a_warning(site):
    assert (site / "index.html").is_file()


def test_every_page_is_in_the_tree(site, pages):
    sources = [path for kind in ("*.md", "*.ipynb") for path in DOCS.rglob(kind) if "_ext" not in path.parts]
    assert len(sources) > 80
    tree = {(site / link.split("#")[0]).resolve() for link in pages[site / "index.html"].links}
    below = {(site / "methods" / f"{path.stem}.html").resolve() for path in (DOCS / "methods").glob("*.md")}
    for source in sources:
        built = (site / source.relative_to(DOCS)).with_suffix(".html").resolve()
        assert built.is_file(), source
        assert built in tree | below or source.stem == "index", f"{source} is in no toctree that the index shows"
        assert "orphan:" not in source.read_text(encoding="utf-8")[:200]


def test_no_link_within_the_site_is_broken(site, pages):
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or link.startswith(("#", "data:")) or not (parts.path or parts.fragment):
                aim = path if link.startswith("#") else None
            else:
                aim = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if aim is None:
                continue
            assert aim.exists(), f"{path.relative_to(site)} -> {link}"
            if parts.fragment and aim in pages:
                assert unquote(parts.fragment) in pages[aim].anchors, f"{path.relative_to(site)} -> {link}"


def test_nothing_is_loaded_from_another_machine(site, pages):
    for path, page in pages.items():
        away = [link for link in page.loaded if urlsplit(link).scheme not in {"", "data"} or link.startswith("//")]
        assert not away, f"{path.relative_to(site)} loads {away}"
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"""(url\(|@import)\s*["']?(https?:)?//""", text), style


@pytest.mark.parametrize("width", [1440, 390])
def test_pages_fit_their_window_and_ask_for_nothing(site, browser, width):
    shown = ("index", "tutorial", "results", "choosing", "methods/README", "reference/methods", "performance-scale")
    with watched(browser, viewport={"width": width, "height": 900}) as seen:
        for name in shown:
            seen.page.goto((site / f"{name}.html").as_uri())
            assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        assert not [url for url in seen.asked if not url.startswith(("file:", "data:"))]
        assert not seen.said


@pytest.mark.slow
def test_the_site_is_built_with_its_notebooks_run(tmp_path):
    done = build(tmp_path / "site", "-d", str(tmp_path / "trees"))
    assert done.returncode == 0, done.stderr[-4000:]
    for path in (DOCS / "notebooks").glob("*.ipynb"):
        page = (tmp_path / "site" / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert "_images/" in page
        assert str(ROOT) not in page
