"""Maps that know nothing of the model: in every table, a method that does not beat them has shown nothing."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.recording import Recording
from vitscope.trace import Needs, Trace

_PAPER = "none: a baseline"


def _facts(name: str, title: str, caution: str) -> Facts:
    return Facts(name, title, "trivial", _PAPER, 0, False, False, "1.0", caution, of_rows=False, any_network=True)


@register_method
@dataclass(frozen=True)
class Random:
    """Uniform noise on the patch grid, the same for the same picture: seeded by the order of its highest outputs.

    Attributes:
        seed: for other noise.
    """

    seed: int = 0

    facts: ClassVar[Facts] = _facts("random", "Uniform noise", "Noise.")

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def __call__(self, trace: Trace | Recording) -> Maps:
        """Noise a picture."""
        order = trace.logits.topk(min(8, trace.logits.shape[1]), dim=1).indices.tolist()
        seeds = [zlib.crc32(repr((self.seed, one)).encode()) for one in order]
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = [torch.rand(trace.grid, generator=each, dtype=torch.float32) for each in draws]
        return Maps(values=torch.stack(noise).to(trace.logits.device))


@register_method
@dataclass(frozen=True)
class Center:
    """A Gaussian in the middle, its standard deviation a quarter of each side: photographers aim at the middle."""

    facts: ClassVar[Facts] = _facts("center", "Centred Gaussian", "The middle, whatever the picture.")

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def __call__(self, trace: Trace | Recording) -> Maps:
        """The same for every picture."""
        return _for_all(trace, centred_gaussian(*trace.grid))


@register_method
@dataclass(frozen=True)
class Frame:
    """1 everywhere: the full frame, which large things fill."""

    facts: ClassVar[Facts] = _facts("frame", "Full frame", "One value everywhere.")

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def __call__(self, trace: Trace | Recording) -> Maps:
        """The same for every picture."""
        return _for_all(trace, torch.ones(trace.grid))


def centred_gaussian(*grid: int) -> Tensor:
    """A Gaussian in the middle of a grid of any dimension, its standard deviation a quarter of each side."""
    found = torch.ones(())
    for side in grid:
        at = (torch.arange(side) + 0.5) / side - 0.5
        found = found[..., None] * torch.exp(-(at**2) / (2 * 0.25**2))
    return found


def _for_all(trace: Trace | Recording, values: Tensor) -> Maps:
    return Maps(values=values.to(trace.logits.device).expand(len(trace.logits), *values.shape).clone())
