"""Input times gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vitscope.methods.base import Facts, Maps
from vitscope.methods.registry import register_method
from vitscope.recording import Recording
from vitscope.trace import Needs, Trace


@register_method
@dataclass(frozen=True)
class InputXGradient:
    """Input x Gradient (Shrikumar et al., arXiv 1605.01713).

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
        cost="2.6",
        caution="The gradient at one point is noisy, and what is as bright as the mean picture counts for nothing.",
        of_rows=False,
        any_network=True,
    )

    @property
    def needs(self) -> Needs:
        """The gradient at the pictures, and these."""
        return Needs(pictures=True, input_gradient=True)

    def __call__(self, trace: Trace | Recording) -> Maps:
        """The signed map."""
        if isinstance(trace, Recording):
            return Maps(values=trace.cell_sums(trace.at_input() * trace.images.unsqueeze(1)))
        pictures = trace.pictures()
        product = trace.input_gradient().float() * pictures.images.float().unsqueeze(1)
        return Maps(values=pictures.cell_sums(product.sum(dim=2)))
