"""Patch tokens left out: no attention sees their keys, and no head reads their rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vitscope.errors import ModelError
from vitscope.models import Anatomy
from vitscope.trace.guard import depth
from vitscope.trace.hooks import hooks
from vitscope.trace.kernel import Attend
from vitscope.trace.needs import Needs
from vitscope.trace.watch import SOFTMAX, AttentionWatch


class _HidingWatch(AttentionWatch):
    """Masks keys where attention is seen, each picture's own."""

    def __init__(self, anatomy: Anatomy, keys: Tensor) -> None:
        """Of a picture's copies (n), the keys (n N) that are seen, prefix tokens first."""
        super().__init__(anatomy, Needs(), [], lean=False)
        self._seen = keys[:, None, None]  # n 1 1 N
        self.masked: dict[int, int] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        written = self._written
        if (
            depth() == self._depth
            and func in SOFTMAX
            and self.current is not None
            and written is not None
            and args[0] is written.scores
        ):
            self._check(args[0])
            written.scores = args[0].masked_fill(~self._seen, float("-inf"))
            args = (written.scores, *args[1:])
        return super().__torch_function__(func, types, args, kwargs)

    def _fused(self, call: Attend) -> Tensor:
        """Run it with its mask and ours."""
        self._check(call.key.transpose(-2, -1))
        mask = self._seen
        if call.mask is not None and call.mask.dtype == torch.bool:
            mask = mask & call.mask
        elif call.mask is not None:
            mask = call.mask.masked_fill(~mask, float("-inf"))
        return self._go_on(dataclasses.replace(call, mask=mask)(), call.query.shape[-2])

    def _keep(self, *_: Any) -> None:
        """Nothing is recorded."""

    def _go_on(self, output: Tensor, _: int) -> Tensor:
        assert self.current is not None
        self.masked[self.current] = self.masked.get(self.current, 0) + 1
        return output

    def _check(self, by_key: Tensor) -> None:
        """Hold the pictures and keys of (n ... N) against what is to be hidden."""
        pictures, tokens = self._seen.shape[0], self._seen.shape[-1]
        if by_key.ndim != 4 or len(by_key) != pictures or by_key.shape[-1] != tokens:
            raise ModelError(
                f"block {self.current} attends over {tuple(by_key.shape)} where {pictures} pictures of {tokens} tokens "
                "are run; its adapter does not fit it"
            )


@contextmanager
def hidden(anatomy: Anatomy, keep: Tensor) -> Iterator[None]:
    """Within this context, in this thread, the model runs on n pictures without some of their patch tokens.

    Their keys are masked in every block, so that no other token sees them; what they become themselves nobody sees.
    That is the model without these tokens, each of the others in its place, as long as the head does not read them.

    Args:
        anatomy: the model's description.
        keep: (n P) bool, False for the tokens that are left out.

    Raises:
        ModelError: tokens meet elsewhere than in the blocks, a picture is left without a token, or (at the end) a
            block's attention was not seen.
    """
    if not anatomy.whole or not anatomy.blocks:
        raise ModelError(
            f"tokens cannot be left out of {anatomy.name}: they meet in attention that its description leaves out; "
            "alter the pictures instead"
        )
    prefix = keep.new_ones(len(keep), len(anatomy.prefix))
    keys = torch.cat([prefix, keep], dim=1)
    if not bool(keys.any(dim=1).all()):
        raise ModelError(f"no token of {anatomy.name} is left; leave out fewer at a time")
    watch = _HidingWatch(anatomy, keys)
    with hooks() as hook, watch:
        for index, block in enumerate(anatomy.blocks):
            hook.before(block.attention, partial(watch.enter, index))
            hook.after(block.attention, watch.leave)
        yield
    unseen = [block.name for index, block in enumerate(anatomy.blocks) if watch.masked.get(index) != 1]
    if unseen:
        raise ModelError(
            f"the attention of {', '.join(unseen[:3])} was not seen once: it uses a kernel that torch does not show; "
            "switch the model to torch's scaled_dot_product_attention"
        )
