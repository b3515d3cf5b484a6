"""Integrated CDAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from vitscope.errors import MethodError
from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.trace import Blocks, Needs, Trace, samples_at_once


@register_method
@dataclass(frozen=True)
class IntegratedCDAM:
    """Integrated CDAM (arXiv 2312.02364, section 3.3): the mean of the CDAMs on the way from zero to the tokens.

    The last block's input x_B is scaled by k / steps, k = 1 .. steps - 1, and the CDAMs at these points are averaged.
    This is no integral that keeps completeness: each CDAM multiplies by its own, scaled tokens. As the LayerNorm of a
    scaled token is affine in that of the token, the keys and values of all points follow from one set.

    Attributes:
        steps: how many parts the way has.
        at: "input" as published; "norm" as in its authors' later code: t_B = LN1(x_B) is scaled instead, the residual
            stream as it was, and both ends count (k = 0 .. steps).
    """

    steps: int = 50
    at: Literal["input", "norm"] = "input"

    facts: ClassVar[Facts] = Facts(
        name="integrated_cdam",
        title="Integrated Class-Discriminative Attention Map",
        family="papers",
        paper="arXiv 2312.02364",
        year=2023,
        signed=True,
        class_specific=True,
        cost="1.2",
        caution="Looks at the last block's tokens only; scaled tokens are such as the model never sees.",
    )

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise MethodError(f"integrated_cdam:steps={self.steps}: give at least 2")

    @property
    def needs(self) -> Needs:
        """The last block, to be run again."""
        return Needs(attention=Blocks.LAST, rerun=True)

    def __call__(self, trace: Trace) -> Maps:
        """The signed map."""
        last = trace.again()
        ends = (1, self.steps) if self.at == "input" else (0, self.steps + 1)
        factors = torch.arange(*ends, device=last.input.device, dtype=last.input.dtype) / self.steps
        run = last.scaled_input if self.at == "input" else last.scaled_norm
        effects = [run(part).sum(dim=0) for part in factors.split(samples_at_once(last.input))]
        return Maps(values=trace.to_grid(torch.stack(effects).sum(dim=0) / len(factors)))
