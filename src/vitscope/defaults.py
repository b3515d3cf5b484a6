"""What the command line says and checks of the library before it imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

Family = Literal[
    "papers", "attention", "attention-gradient", "cam", "relevance", "input-gradient", "perturbation", "trivial"
]
"""Kinds of methods, in the order of listings."""

FAMILIES: Mapping[Family, str] = {
    "papers": "the three papers that vitscope unites",
    "attention": "attention alone",
    "attention-gradient": "attention times gradient",
    "cam": "class activation maps",
    "relevance": "another backward pass",
    "input-gradient": "gradients at the pixels",
    "perturbation": "the model run on altered pictures",
    "trivial": "baselines that know nothing of the model",
}
"""What the methods of a family have in common."""

GROUPS = (
    "all, or a family: "
    + ", ".join(FAMILIES)
    + " (family:NAME where a method has the family's name, as family:attention)"
)
"""Which groups of methods there are, for help texts and errors."""

Precision = Literal["float32", "bf16", "fp16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

PART = 64
"""Images in a part of a benchmark or of stored maps."""
