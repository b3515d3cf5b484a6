"""How many pictures are run at once: what memory holds, and half of that where it does not."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from vitscope.errors import MethodError
from vitscope.trace.budget import in_words, limit_of_pass
from vitscope.trace.live import LivePeak

Part = TypeVar("Part")
Job = Callable[[int, int], Part]
"""From the first picture and the one behind the last to a result for them."""

_FIRST, _MOST_ON_CPU, _MOST = 8, 32, 512
_PART = 0.5  # of the free memory
_ON_CPU = 2**30  # bytes at most, for the sake of caches and of the others on the machine
_ROOM = 0.9  # of a limit: what an allocator keeps between tensors, and kernels take for themselves, is not measured
_FULL = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "could not create a primitive",  # oneDNN's words
)


class Chunks:
    """Runs many pictures some at a time; the size is kept from one call to the next.

    The first chunk is small, and what it takes is measured (`LivePeak`). From the second on a chunk takes what there is
    room for: half of the device's free memory, or a limit. Where memory is exhausted all the same, the chunk is halved
    and run again.
    """

    def __init__(
        self,
        device: torch.device,
        most: int | None = None,
        *,
        limit: int | None = None,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        """Nothing is run yet.

        Args:
            device: of the model.
            most: pictures in a chunk; None for as many as memory holds.
            limit: bytes that a chunk may take, for which the first one is of one picture; None for the context's, or
                where it has none for half of what is free.
            say: is told, in one line, where a chunk is halved, or one picture takes more than the limit.
        """
        self._device, self._say = device, say
        self._most = most or (_MOST if device.type == "cuda" else _MOST_ON_CPU)
        within = limit_of_pass()  # where it is one, this is a part of a pass, beside what has been recorded
        self._limit = limit or (None if within is None else int(_PART * within))
        self.size = 1 if self._limit else min(_FIRST, self._most)
        self._measured = False

    @classmethod
    def whole(cls, device: torch.device, say: Callable[[str], object]) -> Chunks:
        """All pictures in one chunk, as long as memory holds them; nothing is measured."""
        chunks = cls(device, 2**62, say=say)
        chunks.size, chunks._measured = chunks._most, True
        return chunks

    @property
    def measured(self) -> bool:
        """Whether the first chunk has been run, which a function mode watches."""
        return self._measured

    def over(self, count: int, job: Job[Tensor], done: Callable[[int], None]) -> Tensor:
        """The results of `job` for all pictures, (count ...); see `parts`."""
        return torch.cat(self.parts(count, job, done))

    def parts(self, count: int, job: Job[Part], done: Callable[[int], None] = lambda more: None) -> list[Part]:
        """The results of `job` for all pictures, a chunk each.

        Args:
            count: how many pictures, at least one.
            job: runs some of them.
            done: is told how many, after each chunk.

        Raises:
            MethodError: one picture by itself does not fit into memory.
        """
        found: list[Part] = []
        start = 0
        while start < count:
            stop = min(start + self.size, count)
            part = self._try(start, stop, job)
            if part is None:
                continue
            found.append(part[0])
            done(stop - start)
            start = stop
        return found

    def _try(self, start: int, stop: int, job: Job[Part]) -> tuple[Part] | None:
        """One chunk, or None where it did not fit."""
        try:
            if self._measured:
                return (job(start, stop),)
            with LivePeak(self._device) as meter:
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
            self._say(f"out of memory with {stop - start} pictures at once; going on with {self.size}")
        else:
            self._fit(meter.peak // (stop - start))
            return (part,)
        # Here the failed chunk's tensors are no longer held by the exception.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        _give_back()
        return None

    def _fit(self, each: int) -> None:
        """Choose the size for pictures that take so many bytes each."""
        self._measured = True
        free = self._free()
        self.size = max(1, min(self._most, int(free // max(1, each))))
        if self._limit and each > self._limit:
            self._say(
                f"one picture takes {in_words(each)}, more than the limit of {in_words(self._limit)}; going on one at "
                "a time"
            )

    def _free(self) -> float:
        """The bytes that a chunk may take."""
        if self._limit:
            return _ROOM * self._limit
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


def _give_back() -> None:
    """Let the C library of Linux return what it holds of freed memory, which others in the process cannot take."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def out_of_memory(error: BaseException) -> bool:
    """Whether a device's memory is exhausted; torch says it in several ways."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _FULL)
