"""How many pictures are run at once: what memory holds, and half of that where it does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vitscope.errors import MethodError

Job = Callable[[int, int], Tensor]
"""From the first picture and the one behind the last to a result for each of them, (k ...)."""

_FIRST, _MOST_ON_CPU, _MOST = 8, 32, 512
_PART = 0.5  # of the free memory
_LAYERS = 8  # without a graph, about so many tensors of the largest one's size live at once
_ON_CPU = 2**30  # bytes at most, for the sake of caches and of the others on the machine
_FULL = ("out of memory", "can't allocate memory", "not enough memory")


class Chunks:
    """Runs many pictures some at a time; the size is kept from one call to the next.

    The first chunk is small. What it takes is measured by the sizes of the tensors that torch's functions give: their
    sum where a graph keeps them, a few of the largest where none does. From the second on a chunk takes at most half of
    the device's free memory. Where memory is exhausted all the same, the chunk is halved and run again.
    """

    def __init__(self, device: torch.device, graph: bool, limit: int | None = None) -> None:
        """For runs with a graph or without one; of at most `limit` pictures, or as many as memory holds."""
        self._device, self._graph = device, graph
        self._most = limit or (_MOST if device.type == "cuda" else _MOST_ON_CPU)
        self.size = min(_FIRST, self._most)
        self._measured = False

    @property
    def measured(self) -> bool:
        """Whether the first chunk has been run, which a function mode watches."""
        return self._measured

    def over(self, count: int, job: Job, done: Callable[[int], None]) -> Tensor:
        """The results of `job` for all pictures, (count ...).

        Args:
            count: how many pictures, at least one.
            job: runs some of them.
            done: is told how many, after each chunk.

        Raises:
            MethodError: one picture by itself does not fit into memory.
        """
        found: list[Tensor] = []
        start = 0
        while start < count:
            stop = min(start + self.size, count)
            part = self._try(start, stop, job)
            if part is None:
                continue
            found.append(part)
            done(stop - start)
            start = stop
        return torch.cat(found)

    def _try(self, start: int, stop: int, job: Job) -> Tensor | None:
        """One chunk, or None where it did not fit."""
        try:
            if self._measured:
                return job(start, stop)
            with _Sizes() as sizes:
                part = job(start, stop)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if stop - start == 1:
                raise MethodError(
                    f"one picture by itself does not fit into the memory of {self._device}; use smaller pictures, a "
                    "smaller model, or another device"
                ) from None
            self.size = self._most = (stop - start) // 2
            self._measured = True
        else:
            self._measured = True
            each = max(1, (sizes.total if self._graph else _LAYERS * sizes.largest) // (stop - start))
            self.size = max(1, min(self._most, int(self._free() // each)))
            return part
        # Here the failed chunk's tensors are no longer held by the exception.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _free(self) -> float:
        """The bytes that a chunk may take."""
        if self._device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._device)
            unused = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
            return _PART * (free + unused)
        if self._device.type == "mps":
            return _PART * (torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
        names = getattr(os, "sysconf_names", {})
        if "SC_AVPHYS_PAGES" in names:
            return min(_ON_CPU, _PART * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        return _ON_CPU


def out_of_memory(error: BaseException) -> bool:
    """Whether a device's memory is exhausted; torch says it in several ways."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _FULL)


class _Sizes(TorchFunctionMode):
    """The sizes in bytes of what torch's functions give."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.largest = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            size = result.numel() * result.element_size()
            self.total += size
            self.largest = max(self.largest, size)
        return result
