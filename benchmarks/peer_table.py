"""The rows of `benchmarks/peers.py`: how they are gathered, compared and printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

Row = dict[str, Any]


def agreement(file: Path, ours: Path) -> float | None:
    """Spearman's rank correlation of two files of maps, mean over pictures; None where one of them is flat."""
    if not (file.exists() and ours.exists()):
        return None
    pairs = zip(np.load(file), np.load(ours), strict=True)
    found = [spearmanr(theirs.ravel(), own.ravel()).statistic for theirs, own in pairs]
    return float(np.mean(found)) if np.isfinite(found).all() else None


def merged(rows: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """The rows, with what is new in the place of what was measured before."""
    keys = ("model", "size", "threads", "frozen", "batch", "method", "classes", "samples", "who")
    gathered: dict[tuple[Any, ...], Row] = {}
    for row in (*rows, *new):
        gathered.setdefault(tuple(row[key] for key in keys), {}).update(row)
    return list(gathered.values())


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| method | who | batch | forwards | quartiles | peak MB | images/s | correlation |",
        "|---|---|--:|--:|---|--:|--:|--:|",
    ]
    for row in rows:
        method = row["method"] + (f", {row['classes']} classes" if row["classes"] > 1 else "")
        method += f" ({row['samples']})" if row["samples"] else ""
        start = f"| {method} | {row['who']} | {row['batch']} |"
        if "failed" in row:
            lines.append(f"{start} {row['failed']} | | | | |")
            continue
        spread = f"{row['low']:.2f} to {row['high']:.2f}" if "low" in row else ""
        cells = [
            _number(row.get("forwards"), 2),
            spread,
            _number(row.get("peak_mb"), 0),
            _number(row.get("images_per_s"), 1),
            "" if row["who"] == "vitscope" else _number(row.get("correlation"), 3),
        ]
        lines.append(f"{start} {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
