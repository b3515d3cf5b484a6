from __future__ import annotations

import logging
import secrets


def fresh() -> int:
    """A seed that no run had before; a failing test's log tells it."""
    seed = secrets.randbelow(2**31)
    logging.getLogger(__name__).warning("seed %d", seed)
    return seed
