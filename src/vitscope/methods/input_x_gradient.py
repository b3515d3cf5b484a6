"""Input times gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vitscope.methods.base import Facts, Maps
from vitscope.methods.pixels import Score, by_pixels
from vitscope.methods.registry import register_method
from vitscope.trace import Needs, Trace


@register_method
@dataclass(frozen=True)
class InputXGradient:
    """Input x Gradient (Shrikumar et al., arXiv 1605.01713), by Captum.

    map[n] = sum over the pixels p and channels c of patch n of x[c, p] dY/dx[c, p], of the normalised picture.
    """

    facts: ClassVar[Facts] = Facts(
        name="input_x_gradient",
        title="Input x Gradient",
        family="input-gradient",
        paper="arXiv 1605.01713",
        year=2016,
        signed=True,
        class_specific=True,
        cost="4.3",
        caution="The gradient at one point is noisy, and what is as bright as the mean picture counts for nothing.",
        of_rows=False,
    )

    @property
    def needs(self) -> Needs:
        """The model, to be run on pictures."""
        return Needs(pictures=True)

    def __call__(self, trace: Trace) -> Maps:
        """The signed map."""
        return by_pixels(trace, _attribute, 1)


def _attribute(score: Score, image: Tensor, index: Tensor) -> Tensor:
    from captum.attr import InputXGradient as OfCaptum  # takes long to import

    found: Tensor = OfCaptum(score).attribute(image, additional_forward_args=index)
    return found
