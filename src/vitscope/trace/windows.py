"""Models without rows to follow: how much attention each key receives, put back where it lies in the picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from vitscope.errors import ModelError, RefusedError
from vitscope.models import Anatomy, Running
from vitscope.trace.capture import check_output
from vitscope.trace.guard import depth, sized
from vitscope.trace.hooks import hooks
from vitscope.trace.kernel import Attend, masked

_SOFTMAX = {torch.softmax, Tensor.softmax, F.softmax}


@dataclass(frozen=True)
class WindowTrace:
    """What the keys of one attention receive.

    Attributes:
        stage: of the model, counted from 0.
        received: the attention that each key gets, mean over its window's queries, (b h rows cols); its sum over a
            window is 1.
    """

    stage: int
    received: Tensor


class _WindowWatch(TorchFunctionMode):
    """Keeps the mean over queries of the first softmax within each watched attention."""

    def __init__(self, count: int, running: Running) -> None:
        super().__init__()
        self._depth = depth()
        self._running = running
        self.current: int | None = None
        self.received: list[Tensor | None] = [None] * count

    def enter(self, index: int, _: Tensor) -> None:
        self.current = index

    def leave(self, _: Tensor) -> None:
        self.current = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.current is None or self.received[self.current] is not None or depth() != self._depth:
            return result
        wide = self._running.wide
        if func is F.scaled_dot_product_attention:
            call = Attend.of(*args, **kwargs)
            with self._running.exact(result.device):
                mask = None if call.mask is None else wide(call.mask)
                call = dataclasses.replace(call, query=wide(call.query), key=wide(call.key), mask=mask)
                self.received[self.current] = _of_fused(call)
        elif func in _SOFTMAX:
            self.received[self.current] = wide(result).mean(dim=-2)
        return result


def _of_fused(call: Attend) -> Tensor:
    """What each key receives, mean over the queries; windows are small, so the matrix is made."""
    if call.dropout:
        raise ModelError("attention with dropout is not supported in evaluation; use a plain vision transformer")
    scores = call.query @ call.key.transpose(-2, -1) * call.scale
    return masked(scores, call.mask).softmax(dim=-1).mean(dim=-2)


def watch_windows(anatomy: Anatomy, images: Tensor) -> tuple[Tensor, tuple[WindowTrace, ...]]:
    """Run the model once on `images` (b 3 H W).

    Returns:
        Its output (b c), and every attention's record.

    Raises:
        ModelError: the output is not (b c) and finite, an attention was not seen, or its map does not fit.
    """
    watch = _WindowWatch(len(anatomy.windows), anatomy.running)
    inputs: dict[int, tuple[Any, ...]] = {}
    with sized(anatomy, images), hooks() as hook, watch, torch.no_grad():
        for index, window in enumerate(anatomy.windows):
            hook.before_with(window.site, partial(inputs.__setitem__, index))
            hook.before(window.attention, partial(watch.enter, index))
            hook.after(window.attention, watch.leave)
        logits = anatomy.forward(images)
    check_output(logits, images, anatomy.outputs)
    found = []
    for index, window in enumerate(anatomy.windows):
        received = watch.received[index]
        if received is None:
            raise RefusedError(
                f"the attention of {window.name} was not seen: it uses a kernel that torch does not show"
            )
        with sized(anatomy, images):
            on_grid = window.put_back(received, inputs[index])
        if on_grid.ndim != 4 or len(on_grid) != len(images):
            raise ModelError(f"{window.name} has a map of shape {tuple(on_grid.shape)}; its adapter does not fit it")
        if not 0 < float(on_grid.sum()) <= float(received.sum()) * (1 + 1e-3):  # padded keys are cut off
            raise ModelError(f"{window.name}: more is put back into the picture than its keys receive, or nothing is")
        found.append(WindowTrace(window.stage, on_grid))
    return logits.detach(), tuple(found)
