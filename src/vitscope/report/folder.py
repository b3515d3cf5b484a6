"""Reports of a folder that `vitscope explain` has written, from the pictures' records; nothing is computed again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitscope.errors import VitscopeError
from vitscope.parse import parse_json
from vitscope.report.page import report_page
from vitscope.report.record import SCHEMA_VERSION
from vitscope.save import save_text
from vitscope.saved import MANIFEST, VIEW

PER_PAGE = 24
"""Pictures in one page; more make several pages that name each other."""

PAGE = "report.html"


def write_report(folder: str | os.PathLike[str], say: Any = lambda line: None) -> list[Path]:
    """Set the report of a run's folder into that folder.

    Args:
        folder: with a folder a picture, as `vitscope explain` or `Explanation.save` leaves it; or one picture's.
        say: is told of pictures that are left out, in one line each.

    Returns:
        The pages: report.html, and report-2.html ... where there are many pictures.

    Raises:
        VitscopeError: nothing in the folder can be shown, or it cannot be written into.
    """
    root = Path(folder)
    found = _found(root)
    if not found:
        raise VitscopeError(f"{root}: holds no {VIEW} of a picture; give a folder that vitscope explain has written")
    records = []
    for path in found:
        try:
            records.append(_record(path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            say(f"{path}: is left out, it cannot be read ({' '.join(str(error).split())}); explain the picture again")
    if not records:
        raise VitscopeError(f"{root}: no picture in it can be shown; explain them again")
    return _pages(root, records)


def _found(root: Path) -> list[Path]:
    """The records, in the order of the run's manifest; those that it does not name come last."""
    if (root / VIEW).is_file():
        return [root / VIEW]
    found = sorted(root.glob(f"*/{VIEW}"), key=lambda path: _natural(path.parent.name))
    try:
        written = list(parse_json((root / MANIFEST).read_text(encoding="utf-8"))["written"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return found
    place = {str(name): number for number, name in enumerate(written)}
    return sorted(found, key=lambda path: place.get(path.parent.name, len(place)))


def _record(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A picture's record, and what it shares with others."""
    record = parse_json(path.read_text(encoding="utf-8"))
    version, key = record["schema_version"], record["shared"]
    if version != SCHEMA_VERSION:
        raise ValueError(f"it has schema version {version}, and this vitscope reads {SCHEMA_VERSION}")
    if not isinstance(key, str) or not re.fullmatch("[0-9a-f]+", key):
        raise ValueError(f"shared: {key!r}")
    if "name" not in record:
        raise ValueError("it names no picture")
    file = next((one / f"shared-{key}.json" for one in (path.parents[1], path.parent)), path)
    common = parse_json(file.read_text(encoding="utf-8"))
    json.dumps([record, common], ensure_ascii=False, allow_nan=False).encode()  # or it is in no page
    return record, common


def _pages(root: Path, records: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> list[Path]:
    parts = [records[start : start + PER_PAGE] for start in range(0, len(records), PER_PAGE)]
    names = [PAGE] + [f"report-{number}.html" for number in range(2, len(parts) + 1)]
    links = [
        (f"{number * PER_PAGE + 1} to {number * PER_PAGE + len(part)}", name)
        for number, (part, name) in enumerate(zip(parts, names, strict=True))
    ]
    for number, part in enumerate(parts):
        shared = {record["shared"]: common for record, common in part}
        page = report_page([record for record, _ in part], shared, links if len(parts) > 1 else (), number)
        save_text(page, root / names[number])
    return [root / name for name in names]


def _natural(name: str) -> list[tuple[int, str]]:
    """By the numbers in a name: image-2 before image-10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
