"""How a model is run: in which precision; where nothing watches it, also its pictures' memory layout and a compiler."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitscope.defaults import PRECISIONS, Precision
from vitscope.errors import ModelError
from vitscope.warned import warnings_are

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_LOG = logging.getLogger(__name__)

Forward = Callable[[Tensor], Tensor]
"""Images (b 3 H W) -> output (b c)."""


@dataclass(frozen=True)
class Running:
    """How a model is run; the model itself is never changed.

    Attributes:
        precision: of the model's own passes, by torch's autocast: "bf16", "fp16", or "float32", which leaves them as
            the weights are. What methods compute from a pass is in float32 all the same.
        channels_last: pictures in this memory layout, in plain forwards: those of altered pictures, which nothing
            watches.
        compiled: torch.compile for plain forwards.

    Raises:
        ModelError: an unknown precision.
    """

    precision: Precision = "float32"
    channels_last: bool = False
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ModelError(f"precision '{self.precision}' is not known; give {', '.join(PRECISIONS)}")

    @classmethod
    def of(cls, how: Running | Precision) -> Running:
        """The same, or a precision by itself."""
        return how if isinstance(how, Running) else cls(how)

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    @property
    def lowers(self) -> bool:
        """Whether a pass is in another precision than the weights."""
        return self.precision != "float32"

    def check(self, model: nn.Module) -> None:
        """Hold the precision against the model's weights and device.

        Raises:
            ModelError: the weights are not in float32, or torch has no such precision there.
        """
        if not self.lowers:
            return
        weight = next(model.parameters())
        if weight.dtype != torch.float32:
            kind = str(weight.dtype).removeprefix("torch.")
            raise ModelError(
                f"precision {self.precision} is for weights in float32, and these are in {kind}; leave it out, "
                "or bring the model to float32"
            )
        one = torch.ones(1, 1, device=weight.device)
        try:
            with warnings_are("error"), self.lowered(weight.device):
                there = (one @ one).dtype == _DTYPES[self.precision]
        except (RuntimeError, UserWarning):
            there = False
        if not there:
            raise ModelError(f"torch has no {self.precision} on {weight.device}; leave the precision at float32")

    @contextmanager
    def lowered(self, device: torch.device) -> Iterator[None]:
        """Within it, in this thread, torch runs matrix products, convolutions and attention in this precision."""
        if not self.lowers:
            yield
            return
        with torch.autocast(device.type, _DTYPES[self.precision]):
            yield

    @contextmanager
    def exact(self, device: torch.device) -> Iterator[None]:
        """Within it, also amid a pass, torch computes in the precision of what it is given."""
        if not self.lowers:
            yield
            return
        with torch.autocast(device.type, enabled=False):
            yield

    def wide(self, seen: Tensor) -> Tensor:
        """What was seen of a pass, in float32 where it was in another precision than the weights."""
        return seen.float() if self.lowers and seen.is_floating_point() else seen

    def run(self, forward: Forward, images: Tensor) -> Tensor:
        """The output, in float32 at least where the precision is another than the weights'.

        Raises:
            ModelError: it is beyond what fp16 can hold.
        """
        with self.lowered(images.device):
            output = forward(images)
        if self.precision == "fp16" and isinstance(output, Tensor) and not torch.isfinite(output).all():
            raise ModelError("the model's numbers leave the range of fp16; use bf16 or float32")
        return self.wide(output) if isinstance(output, Tensor) else output


class Compiled:
    """A forward that torch.compile makes fast; where it cannot, one line of log says why, and it runs as written."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._fast: Forward | None = None
        self._failed = False

    def __call__(self, images: Tensor) -> Tensor:
        """The forward's output."""
        if self._failed:
            return self._forward(images)
        try:
            if self._fast is None:
                self._fast = torch.compile(lambda rows: self._forward(rows))
            return self._fast(images)
        except MemoryError:
            raise
        except Exception as error:  # a compiler may fail in any way
            if isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            output = self._forward(images)  # which raises where the model itself fails
            self._failed = True
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            _LOG.warning("torch.compile failed (%s); the forwards of altered pictures run uncompiled", reason)
            return output

    def __getstate__(self) -> dict[str, Any]:
        """What was compiled stays in this process."""
        return {"_forward": self._forward, "_fast": None, "_failed": False}
