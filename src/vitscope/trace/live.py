"""What a run takes of a device's memory: the tensors that are alive at once, at their most."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LivePeak(TorchDispatchMode):
    """Within it, in this thread and its backward passes, counts the bytes of what is made on a device and not yet gone.

    A tensor's memory counts once, however many views there are of it; what was there before does not count. What a
    kernel takes for itself and gives back is not seen.

    Attributes:
        live: bytes that are alive now.
        peak: the most that there were.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kind = device.type
        self._known: set[int] = set()
        self.live = self.peak = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for part in _tensors((args, kwargs)):
            self._see(part, made=False)
        result = func(*args, **kwargs)
        for part in _tensors(result):
            self._see(part, made=True)
        return result

    def _see(self, part: Tensor, made: bool) -> None:
        if part.device.type != self._kind or part.layout != torch.strided:
            return
        memory = part.untyped_storage()
        if memory._cdata in self._known:
            return
        size = memory.nbytes() if made else 0
        self._known.add(memory._cdata)
        weakref.finalize(memory, self._gone, memory._cdata, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in an operator's arguments or result: tuples, lists and dictionaries (torch's pytrees are slower)."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
