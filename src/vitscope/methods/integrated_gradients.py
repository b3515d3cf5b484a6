"""Integrated gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vitscope.errors import MethodError
from vitscope.methods.base import Facts, Maps
from vitscope.methods.pixels import Score, by_pixels
from vitscope.methods.registry import register_method
from vitscope.recording import Recording
from vitscope.trace import Needs, Trace


@register_method
@dataclass(frozen=True)
class IntegratedGradients:
    """Integrated Gradients (Sundararajan et al., ICML 2017, arXiv 1703.01365, Eq. 1), by Captum.

    x times the mean of dY/dx along the straight way from 0 to x, by Gauss-Legendre's rule, summed over channels and
    over each patch's pixels. 0 is the mean picture, since x is normalised. A map's sum is Y(x) - Y(0), as far as the
    steps give the integral.

    Attributes:
        steps: points on the way.
    """

    steps: int = 50

    facts: ClassVar[Facts] = Facts(
        name="integrated_gradients",
        title="Integrated Gradients",
        family="input-gradient",
        paper="arXiv 1703.01365",
        year=2017,
        signed=True,
        class_specific=True,
        cost="120 (50 with a backward pass each)",
        caution="Compares with the mean picture; the pictures on the way there are like none that the model has seen.",
        of_rows=False,
        any_network=True,
    )

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise MethodError(f"integrated_gradients:steps={self.steps}: give at least 1 step")

    @property
    def needs(self) -> Needs:
        """The model, to be run on pictures."""
        return Needs(pictures=True)

    def __call__(self, trace: Trace | Recording) -> Maps:
        """The signed map."""
        return by_pixels(trace, self._attribute, self.steps)

    def _attribute(self, score: Score, image: Tensor, index: Tensor) -> Tensor:
        from captum.attr import IntegratedGradients as OfCaptum  # takes long to import

        method = OfCaptum(score)
        found: Tensor = method.attribute(image, n_steps=self.steps, additional_forward_args=index)
        return found
