"""How much memory a pass may take, where that is limited: known to all that works some rows or samples at a time.

It is a context, since what reads it lies behind formulas and backward passes that have nothing else to do with memory.
A backward pass on a GPU runs in a thread of its own, which does not see the context; what it needs is read before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from vitscope.errors import VitscopeError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

_AMPLE = 2**29
"""Bytes of a pass from which on the usual chunks of rows and samples, about 64 MiB a tensor, are left as they are."""

_bytes: ContextVar[int | None] = ContextVar("bytes", default=None)


def as_bytes(limit: int | str) -> int:
    """A number of bytes, or words such as 4GB or 512MiB.

    Raises:
        VitscopeError: it is neither, or nothing.
    """
    if isinstance(limit, str):
        found = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([KMG]?I?B|)\s*", limit.upper())
        unit = _UNITS.get(found[2]) if found else None
        size = 0 if found is None or unit is None else int(float(found[1]) * unit)
    else:
        size = limit
    if size < 1:
        raise VitscopeError(f"memory limit '{limit}': give a number of bytes, or one with a unit: 4GB, 512MB, 1.5GiB")
    return size


def in_words(size: float) -> str:
    """A number of bytes for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


@contextmanager
def within(limit: int | None) -> Iterator[None]:
    """In this context, a pass takes so many bytes; None for as many as there are."""
    before = _bytes.set(limit)
    try:
        yield
    finally:
        _bytes.reset(before)


def limit_of_pass() -> int | None:
    """The bytes of the context."""
    return _bytes.get()


def cut_down(amount: int) -> int:
    """Of rows, samples or numbers that are worked on at a time, those that the context has room for; at least one."""
    limit = _bytes.get()
    return amount if limit is None or limit >= _AMPLE else max(1, amount * limit // _AMPLE)
