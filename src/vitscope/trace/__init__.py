"""How a pass is recorded: one forward and at most one backward for all methods, and the closed-form class path."""

from vitscope.trace.heads import head_products
from vitscope.trace.needs import Blocks, Needs
from vitscope.trace.record import BlockTrace, Trace, record
from vitscope.trace.verify import verify

__all__ = ["BlockTrace", "Blocks", "Needs", "Trace", "head_products", "record", "verify"]
