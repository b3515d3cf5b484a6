"""Writes the tables of docs/performance-peers.md: python docs/make_peers.py [ROWS.json].

ROWS.json is what `benchmarks/peers.py --json` gathers; given, it is kept beside the page. The words between
the tables are written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.peer_calls import CALLS  # noqa: E402
from benchmarks.peer_table import Row, table  # noqa: E402
from benchmarks.peers import SHARED  # noqa: E402

ROWS = HERE / "peers.json"
PAGE = HERE / "performance-peers.md"
WRITTEN = re.compile(r"(<!-- (?P<name>[a-z0-9 ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables(rows: Sequence[Row]) -> dict[str, str]:
    """The page's tables by name."""
    rows = sorted(rows, key=_place)
    small = [row for row in rows if row["size"] is None]
    found = {f"batch {b}": table([r for r in small if r["batch"] == b and r["classes"] == 1]) for b in (1, 8, 32)}
    return found | {
        "ten classes": table([row for row in small if row["classes"] == 10]),
        "1370 tokens": "\n".join(
            ["| method | who | peak MB over a forward's |", "|---|---|--:|"]
            + [f"| {row['method']} | {row['who']} | {row['peak_mb']:.0f} |" for row in rows if row["size"] is not None]
        ),
    }


def page(text: str, rows: Sequence[Row]) -> str:
    """The page with its tables written anew."""
    written = tables(rows)
    return WRITTEN.sub(lambda found: f"{found[1]}\n{written[found['name']]}\n\n{found[3]}", text)


def _place(row: Row) -> tuple[int, int, int, int, int]:
    """Single pictures first, then in the order of the methods, vitscope before the others."""
    who = list(CALLS).index(row["who"])
    return row["batch"], row["classes"], SHARED.index(row["method"]), -(row["samples"] or 0), who


def main() -> None:
    if sys.argv[1:]:
        rows = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        ROWS.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")
    rows = json.loads(ROWS.read_text(encoding="utf-8"))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")


if __name__ == "__main__":
    main()
