"""Methods whose maps rounding alone may change, and how far: a fixed bound in float32 would fail on some machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from vitscope.methods import as_method

K = TypeVar("K")

ROUNDING = 2.0**-24
"""The largest relative error of a number that is stored in float32."""

POLE = 1e-9
"""What Chefer's LRP adds to denominators: another way to write the same product may meet it at another scale."""


def divides(label: str) -> bool:
    """Whether a method divides by sums that may nearly cancel, such as a channel's sum over the patches, or LRP's."""
    return as_method(label).facts.divides


def shaky(label: str) -> bool:
    """Whether a method's values depend on small differences.

    It divides by sums that may nearly cancel, or takes a singular vector, which depends on the gap between the singular
    values, and whose sign is arbitrary.
    """
    return divides(label) or as_method(label).facts.name in ("eigencam", "eigengradcam")


def clusters(label: str) -> bool:
    """Whether a method joins tokens, or masks, into clusters, so that another rounding may give another cluster."""
    return as_method(label).facts.name in ("vit_cx", "tis")


def precision(label: str) -> torch.dtype:
    """The precision in which two computations of the same map are compared.

    A change of 1e-6 moves the maps of `shaky` methods by up to .40 of their norm (experiments/rounding.py; its table is
    in docs/findings.md), and on the random models of these tests `conditioning` finds up to 1e7 times the change: in
    float32 no bound could tell a fault from rounding. In float64 that is 1e-9, so that the usual bounds find faults.
    """
    return torch.float64 if shaky(label) or clusters(label) else torch.float32


def conditioning(
    model: nn.Module, images: Tensor, explain: Callable[[nn.Module, Tensor], Mapping[K, Tensor]], by: float = ROUNDING
) -> dict[K, float]:
    """How far maps move, in their norm, if weights and images change by some relative error: the most of four trials.

    Args:
        model: in float64; as it was afterwards.
        images: (b 3 H W) in float64.
        explain: the model and images -> maps.
        by: the largest relative error; by default that of rounding to float32.
    """
    generator = torch.Generator().manual_seed(0)

    def changed(exact: Tensor) -> Tensor:
        return exact * (1 + by * (2 * torch.rand(exact.shape, generator=generator, dtype=exact.dtype) - 1))

    exact, wanted = {key: value.clone() for key, value in model.state_dict().items()}, explain(model, images)
    moved = dict.fromkeys(wanted, 0.0)
    for _ in range(4):
        model.load_state_dict({key: changed(value) for key, value in exact.items()})
        for key, found in explain(model, changed(images)).items():
            if key in wanted:
                moved[key] = max(moved[key], float((found - wanted[key]).norm() / wanted[key].norm()))
    model.load_state_dict(exact)
    return moved
