"""Warnings turned into errors, or silenced, for as long as a call takes."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

_lock = threading.Lock()


def _renew() -> None:
    """In a process that was forked while another thread held the lock, nobody would ever give it back."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


@contextmanager
def warnings_are(action: Literal["error", "ignore"], category: type[Warning] = Warning) -> Iterator[None]:
    """Within it, warnings of a kind are errors, or nothing; for one thread at a time.

    Python's filters are the whole process's: of two threads that change and put them back at once, one would put back
    the other's. So nothing that waits for another thread may be called within it.
    """
    with _lock, warnings.catch_warnings():
        warnings.simplefilter(action, category)
        yield
