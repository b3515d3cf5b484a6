"""How a pass is recorded: one forward and at most one backward for all methods, and the closed-form class path."""

from vitscope.trace.ablate import without_attention
from vitscope.trace.backward import PLAIN, Rules
from vitscope.trace.block import Transformation
from vitscope.trace.budget import as_bytes, cut_down, within
from vitscope.trace.capture import NO_GRADIENT
from vitscope.trace.chunks import Chunks
from vitscope.trace.everyrow import EveryRow
from vitscope.trace.evidence import Effects, effects_on_features
from vitscope.trace.gradient_rules import CP_LRP, LIBRA, attn_lrp, over, res_lrp
from vitscope.trace.guard import left_as_found
from vitscope.trace.heads import head_products, merge_heads
from vitscope.trace.hide import hidden
from vitscope.trace.needs import Blocks, Needs, gradient_along
from vitscope.trace.pictures import Pictures, Report
from vitscope.trace.propagate import Propagated, why_no_rule
from vitscope.trace.record import BlockTrace, Trace, record
from vitscope.trace.relevance_rules import CHEFER_LRP
from vitscope.trace.rerun import LastBlock, Sway, samples_at_once
from vitscope.trace.scaled import Scaled
from vitscope.trace.verify import verify

__all__ = [
    "CHEFER_LRP",
    "CP_LRP",
    "LIBRA",
    "NO_GRADIENT",
    "PLAIN",
    "BlockTrace",
    "Blocks",
    "Chunks",
    "Effects",
    "EveryRow",
    "LastBlock",
    "Needs",
    "Pictures",
    "Propagated",
    "Report",
    "Rules",
    "Scaled",
    "Sway",
    "Trace",
    "Transformation",
    "as_bytes",
    "attn_lrp",
    "cut_down",
    "effects_on_features",
    "gradient_along",
    "head_products",
    "hidden",
    "left_as_found",
    "merge_heads",
    "over",
    "record",
    "res_lrp",
    "samples_at_once",
    "verify",
    "why_no_rule",
    "within",
    "without_attention",
]
