"""Models that torch.compile made, in whole or in part: they are watched as they were written."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_guard = threading.Lock()
_inside: list[Any] = []  # one entry for each thread that is inside; the first holds what was set before


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run what torch.compile made as it was written, since its graphs do not see hooks that are added later.

    The setting is torch's own and holds for the whole process; the last one to leave puts back what was there. Where
    nothing was compiled, and before torch 2.6, nothing is set.
    """
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        yield
        return
    with _guard:
        _inside.append(_inside[0] if _inside else torch.compiler.set_stance("force_eager"))
    try:
        yield
    finally:
        with _guard:
            stance = _inside.pop()
            if not _inside:
                stance.__exit__(None, None, None)
