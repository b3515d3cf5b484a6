"""How far a method's map survives the loss of the weights that it claims to explain: measured, docs/results.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

LIMIT = 0.5
"""A mean rank correlation from which a map is said to fail the sanity check."""


@cache
def measured() -> Mapping[str, Mapping[str, float]]:
    """Model -> method, by its default options -> rank correlation of its map with that of redrawn weights.

    The mean over pictures and depths, the weights being redrawn from the head down (Adebayo et al., arXiv 1810.03292).
    `docs/make_results.py` writes it.
    """
    content = files("vitscope.methods").joinpath("survival.json").read_text(encoding="utf-8")
    found: Mapping[str, Mapping[str, float]] = json.loads(content)
    return found


def failure(method: str) -> str:
    """What a reader must be told of a method whose map hardly changes with the weights on any model, or ""."""
    found = {model: values[method] for model, values in measured().items() if method in values}
    if not found or min(found.values()) < LIMIT:
        return ""
    numbers = ", ".join(f"{value:.2f} on {model}" for model, value in found.items())
    return f"Fails the sanity check: much the same map with random weights (rank correlation {numbers})."
