"""Runs the tutorial and keeps its pictures and its table: python docs/make_tutorial.py."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from PIL import Image
from run_page import run_page

HERE = Path(__file__).parent
PAGE = HERE / "tutorial.md"
PICTURES = {
    "first": "first/two/sheet.png",
    "asked": "asked/two/sheet.png",
    "compare": "compare.png",
    "cheat": "cheat.png",
}
"""Name of the kept picture -> what the tutorial's commands write."""

TABLE = re.compile(r"(<!-- overview -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def with_table(text: str, table: str) -> str:
    """The page with the rows of `overview.md` in it, without the heading and the legend."""
    rows = "\n".join(line for line in table.splitlines() if line.startswith("|"))
    return TABLE.sub(lambda found: f"{found[1]}{rows}\n{found[2]}", text)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run_page(PAGE)
        for name, written in PICTURES.items():
            picture = Image.open(written).convert("RGB")
            picture.save(HERE / "pictures" / f"tutorial-{name}.webp", quality=88)
        table = Path("table/tables/overview.md").read_text(encoding="utf-8")
        os.chdir(HERE)
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), table), encoding="utf-8")


if __name__ == "__main__":
    main()
