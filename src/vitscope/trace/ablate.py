"""The same model with one block's attention left out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn

from vitscope.models import Anatomy


@contextmanager
def without_attention(anatomy: Anatomy, block: int, rows: Literal["all", "read"] = "all") -> Iterator[None]:
    """Within this context, in this thread, a block's attention adds nothing to the residual stream.

    Args:
        anatomy: the model's description.
        block: which one, counted from 0.
        rows: of "all" tokens; or of those that the head reads alone, so that the patches still exchange what they know.
    """
    thread = threading.get_ident()

    def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if threading.get_ident() != thread:
            return None
        kept: Tensor = (output[0] if isinstance(output, tuple) else output).clone()
        kept[:, : None if rows == "all" else anatomy.rows_read] = 0
        return (kept, *output[1:]) if isinstance(output, tuple) else kept

    handle = anatomy.blocks[block].attention.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
