"""SmoothGrad."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vitscope.errors import MethodError
from vitscope.methods.base import Facts, Maps
from vitscope.methods.pixels import Score, by_pixels
from vitscope.methods.registry import register_method
from vitscope.recording import Recording
from vitscope.trace import Needs, Trace


@register_method
@dataclass(frozen=True)
class SmoothGrad:
    """SmoothGrad (Smilkov et al., arXiv 1706.03825, section 3), by Captum's NoiseTunnel.

    The mean of dY/dx over noisy copies of the picture, Gaussian, of `noise` times its (max - min). The paper leaves the
    convention open and shows magnitudes as well as signed values: here it is the gradient itself, with its sign, not
    its magnitude and not times the picture; then the sum over channels and over each patch's pixels, in which opposite
    signs cancel. Every picture gets the draws that it would get alone; torch's own random state is left alone.

    Attributes:
        samples: noisy copies.
        noise: the noise's standard deviation, as a share of the picture's range.
        seed: of the draws.
    """

    samples: int = 50
    noise: float = 0.15
    seed: int = 0

    facts: ClassVar[Facts] = Facts(
        name="smoothgrad",
        title="SmoothGrad",
        family="input-gradient",
        paper="arXiv 1706.03825",
        year=2017,
        signed=True,
        class_specific=True,
        cost="150 (50 with a backward pass each)",
        caution="How the score would change with brightness, not what it rests on; signs cancel within a patch.",
        of_rows=False,
        any_network=True,
    )

    def __post_init__(self) -> None:
        if self.samples < 1 or self.noise < 0:
            raise MethodError(
                f"smoothgrad:samples={self.samples},noise={self.noise}: give at least 1 sample, noise >= 0"
            )

    @property
    def needs(self) -> Needs:
        """The model, to be run on pictures."""
        return Needs(pictures=True)

    def __call__(self, trace: Trace | Recording) -> Maps:
        """The signed map."""
        return by_pixels(trace, self._attribute, self.samples, alone=True)

    def _attribute(self, score: Score, image: Tensor, index: Tensor) -> Tensor:
        from captum.attr import NoiseTunnel, Saliency  # takes long to import

        image = image.detach()
        spread = self.noise * float(image.max() - image.min())
        with _DrawnFrom(self.seed):
            found: Tensor = NoiseTunnel(Saliency(score)).attribute(
                image,
                nt_type="smoothgrad",
                nt_samples=self.samples,
                stdevs=spread,
                abs=False,
                additional_forward_args=index,
            )
        return found


class _DrawnFrom(TorchFunctionMode):
    """Within it, in this thread, normal numbers come from a seed; torch's own random state is not touched.

    Captum takes no generator, and the state of torch's own is shared by all threads.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.normal:
            return func(*args, **kwargs)
        mean, spread = args  # in torch's default dtype, of which the draws must not depend
        return func(mean, spread.float(), **kwargs, generator=self._generator).to(spread.dtype)
