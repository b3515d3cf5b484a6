"""How a pass is recorded: one forward and at most one backward for all methods, and the closed-form class path."""

from vitscope.trace.ablate import without_attention
from vitscope.trace.everyrow import EveryRow
from vitscope.trace.evidence import Effects, effects_on_features
from vitscope.trace.guard import left_as_found
from vitscope.trace.heads import head_products
from vitscope.trace.hide import hidden
from vitscope.trace.needs import Blocks, Needs
from vitscope.trace.pictures import Pictures, Report
from vitscope.trace.record import BlockTrace, Trace, record
from vitscope.trace.rerun import LastBlock, Sway, samples_at_once
from vitscope.trace.verify import verify

__all__ = [
    "BlockTrace",
    "Blocks",
    "Effects",
    "EveryRow",
    "LastBlock",
    "Needs",
    "Pictures",
    "Report",
    "Sway",
    "Trace",
    "effects_on_features",
    "head_products",
    "hidden",
    "left_as_found",
    "record",
    "samples_at_once",
    "verify",
    "without_attention",
]
