"""How a pass over any network is recorded: its attention calls, its located tokens, and their gradients."""

from vitscope.recording.altered import AlteredInputs, BoundTarget
from vitscope.recording.calls import AttentionCall, AttentionCalls, go_on
from vitscope.recording.network import Network, Recording, record_network
from vitscope.recording.one_pass import LocatedTokens
from vitscope.recording.output import described, joined, leaves, logits_of, rows_of
from vitscope.recording.record import AttentionRecord, resized

__all__ = [
    "AlteredInputs",
    "AttentionCall",
    "AttentionCalls",
    "AttentionRecord",
    "BoundTarget",
    "LocatedTokens",
    "Network",
    "Recording",
    "described",
    "go_on",
    "joined",
    "leaves",
    "logits_of",
    "record_network",
    "resized",
    "rows_of",
]
