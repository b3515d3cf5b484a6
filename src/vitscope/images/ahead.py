"""Pictures read and resized in processes of their own, ahead of the passes that need them."""

from __future__ import annotations

import math
import os
import pickle  # nosec B403  # between this process and its forks
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vitscope.errors import VitscopeError, text_of
from vitscope.images.notes import collected, note

Found = TypeVar("Found")

_WORTH_IT = 8
"""Pictures from which on processes are started where their number is left open."""


@dataclass(frozen=True)
class Unread:
    """What stands for a picture that cannot be read: the reason, in one line."""

    reason: str


def usual_workers(count: int) -> int:
    """How many processes read `count` pictures where nobody says it: a quarter of the cores, at most four."""
    return min(4, (os.cpu_count() or 1) // 4) if sys.platform == "linux" and count >= _WORTH_IT else 0


class ReadAhead(Generic[Found]):
    """Reads pictures by name, in this process or ahead of it, by torch's `DataLoader`.

    A picture that cannot be read is an `Unread` in its place. What is noted of one (`vitscope.images.notes`) in another
    process is noted in this one. Where a process dies, it is said, and the rest is read in this one.

    Attributes:
        waited: seconds that were spent on waiting for pictures, or on reading them here.
    """

    def __init__(
        self,
        read: Callable[[str], Found],
        *,
        workers: int | None = None,
        ahead: int = 16,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        """Nothing is read yet.

        Args:
            read: a picture by its name; what it gives and raises goes from process to process.
            workers: processes; 0 reads here, None leaves it to `usual_workers`.
            ahead: pictures that are ready before they are asked for, at most, but for one a process.
            say: is told, in one line, where a process dies.

        Raises:
            VitscopeError: less than no process.
        """
        if workers is not None and workers < 0:
            raise VitscopeError(f"--workers {workers}: give 0 or more")
        self._read, self._workers, self._ahead, self._say = read, workers, ahead, say
        self._coming: Iterator[Tensor] | None = None
        self._order: list[str] = []
        self._held: dict[str, Found | Unread] = {}
        self.waited = 0.0

    def __enter__(self) -> ReadAhead[Found]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def expect(self, names: Sequence[str]) -> None:
        """Begin to read these, which will be taken in this order; what was expected before is not any more."""
        self.close()
        names = list(dict.fromkeys(names))
        workers = usual_workers(len(names)) if self._workers is None else min(self._workers, len(names))
        if workers:
            self._order = names[::-1]
            self._coming = _started(_Pictures(self._read, names), workers, math.ceil(self._ahead / workers))

    def take(self, names: Sequence[str]) -> list[Found | Unread]:
        """These pictures. They are held until later ones are taken, so that a batch can be asked for again in parts."""
        began = time.perf_counter()
        for name in list(self._held):
            if name in names[:1]:
                break
            del self._held[name]
        for name in names:
            if name not in self._held:
                self._held[name] = self._next(name)
        self.waited += time.perf_counter() - began
        return [self._held[name] for name in names]

    def close(self) -> None:
        """End the processes."""
        self._coming = None  # whose end is torch's
        self._order.clear()
        self._held.clear()

    def _next(self, name: str) -> Found | Unread:
        if self._coming is not None and self._order and self._order[-1] == name:
            try:
                packed = next(self._coming)
            except (RuntimeError, OSError, EOFError):  # as the loader says it, or the pipe
                self._coming = None
                self._say("a process that reads pictures died; the rest are read in this one")
            else:
                self._order.pop()
                found: Found | Unread
                found, lines = pickle.loads(packed.numpy().data)  # nosec B301  # our own forks'
                for line in lines:
                    note(line)
                return found
        return _tried(self._read, name)


def _tried(read: Callable[[str], Found], name: str) -> Found | Unread:
    try:
        return read(name)
    except Exception as error:  # a picture's file may hold anything
        return Unread(text_of(error))


class _Pictures(Dataset[Tensor]):
    """Each as the bytes of whatever was read, with what was noted of it, in a tensor.

    The loader sends tensors by shared memory, and through its pipe only where they are. A message so short is there or
    not, also where the process is killed that sends it; half of a long one would be waited for without an end.
    """

    def __init__(self, read: Callable[[str], Any], names: Sequence[str]) -> None:
        self._read, self._names = read, names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Tensor:
        with collected() as lines:
            found = _tried(self._read, self._names[index])
        packed = pickle.dumps((found, lines), protocol=pickle.HIGHEST_PROTOCOL)
        return torch.frombuffer(bytearray(packed), dtype=torch.uint8)


def _started(pictures: _Pictures, workers: int, ahead: int) -> Iterator[Tensor]:
    """Processes at work.

    They are forked, so that they start at once and need not be told what they read; they never touch a GPU. The loader
    is started in a thread, since in the main one it would install a signal handler that raises wherever the program is
    when a process dies, in the midst of a pass too; without, it is told when the next picture is asked for.
    """
    loader = DataLoader(
        pictures,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=ahead,
        collate_fn=_as_it_is,
        multiprocessing_context="fork" if sys.platform == "linux" else None,
    )
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(iter, loader).result()


def _as_it_is(packed: Any) -> Any:
    return packed
