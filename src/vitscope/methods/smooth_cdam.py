"""Smooth CDAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from vitscope.errors import MethodError
from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.trace import Blocks, Needs, Trace, samples_at_once

_CACHED = 16 * 2**20
"""Bytes of the samples that are run side by side; with more they leave the caches."""


@register_method
@dataclass(frozen=True)
class SmoothCDAM:
    """Smooth CDAM (arXiv 2312.02364, section 3.3): the mean of the CDAMs of noisy tokens.

    Noise is added to all tokens of the last block's input x_B, Gaussian, of `noise` times (max - min) of that image's
    x_B; each CDAM is taken at its own noisy tokens. Only the last block's class row is run again. All images of a batch
    get the same draws, so that a map does not depend on its place in the batch.

    Attributes:
        samples: how many draws.
        noise: their standard deviation, as a share of the tokens' range.
        seed: of the draws' own generator.
        at: "input" as published; "norm" as in its authors' later code: noise on t_B = LN1(x_B), by the range of t_B,
            the residual stream as it was.
    """

    samples: int = 50
    noise: float = 0.05
    seed: int = 0
    at: Literal["input", "norm"] = "input"

    facts: ClassVar[Facts] = Facts(
        name="smooth_cdam",
        title="Smooth Class-Discriminative Attention Map",
        family="papers",
        paper="arXiv 2312.02364",
        year=2023,
        signed=True,
        class_specific=True,
        cost="1.5",
        caution="Looks at the last block's tokens only; what the noise averages away may have been real.",
    )

    def __post_init__(self) -> None:
        if self.samples < 1 or self.noise < 0:
            raise MethodError(
                f"smooth_cdam:samples={self.samples},noise={self.noise}: give at least 1 sample, noise >= 0"
            )

    @property
    def needs(self) -> Needs:
        """The last block, to be run again."""
        return Needs(attention=Blocks.LAST, rerun=True)

    def __call__(self, trace: Trace) -> Maps:
        """The signed map."""
        last = trace.again()
        tokens = last.input if self.at == "input" else last.tokens
        run = last.at_input if self.at == "input" else last.at_norm
        spread = self.noise * (tokens.amax(dim=(1, 2), keepdim=True) - tokens.amin(dim=(1, 2), keepdim=True))
        generator = torch.Generator().manual_seed(self.seed)
        effects = []
        chunk = samples_at_once(tokens, _CACHED)
        for start in range(0, self.samples, chunk):
            count = min(chunk, self.samples - start)
            shape = tokens.shape[1:]
            draws = torch.stack([torch.randn(shape, generator=generator, dtype=torch.float32) for _ in range(count)])
            noisy = tokens + spread * draws[:, None].to(tokens)
            effects.append(run(noisy).sum(dim=0))
        return Maps(values=trace.to_grid(torch.stack(effects).sum(dim=0) / self.samples))
