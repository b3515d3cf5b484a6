"""`vitscope describe`: what was found where in a model, and which methods apply."""

from __future__ import annotations

import vitscope.description
from vitscope.cli import common


def describe(
    model: common.Model,
    weights: common.Weights = None,
    json: common.Json = False,
) -> None:
    """Describe a model: tokens, grid, blocks, head, preprocessing, and which methods apply or why not.

    Without --weights the model is built with random ones; nothing is downloaded.
    """
    description = vitscope.description.describe(model, weights)
    if json:
        common.tell_json({**description.facts, "methods": description.methods})
    else:
        common.tell(str(description))
