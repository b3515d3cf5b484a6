"""What a user should know of how an image was read: warnings in the log, also from where the log does not reach.

Processes that read ahead, Ray's workers and the server collect what is noted, and hand it on with the image.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

_LOG = logging.getLogger(__name__)
_collecting: ContextVar[list[str] | None] = ContextVar("collecting", default=None)


def note(line: str, *, once: bool = True) -> None:
    """Warn in the log, or add the line to what is being collected.

    Args:
        line: names the image.
        once: whether the line names a file, for which the log has it once however often the file is read.
    """
    collected_here = _collecting.get()
    if collected_here is not None:
        collected_here.append(line)
    elif once:
        _warn_once(line)
    else:
        _LOG.warning("%s", line)


@contextmanager
def collected() -> Iterator[list[str]]:
    """Collect what this thread notes within it, instead of logging it."""
    lines: list[str] = []
    token = _collecting.set(lines)
    try:
        yield lines
    finally:
        _collecting.reset(token)


@lru_cache(maxsize=4096)
def _warn_once(line: str) -> None:
    _LOG.warning("%s", line)
