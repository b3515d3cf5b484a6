"""How a pass over any network is recorded: its attention calls, its located tokens, and their gradients."""

from vitscope.recording.calls import AttentionCall, AttentionCalls, go_on
from vitscope.recording.network import LocatedTokens, Network, Recording, described, leaves, logits_of, record_network
from vitscope.recording.record import AttentionRecord, resized

__all__ = [
    "AttentionCall",
    "AttentionCalls",
    "AttentionRecord",
    "LocatedTokens",
    "Network",
    "Recording",
    "described",
    "go_on",
    "leaves",
    "logits_of",
    "record_network",
    "resized",
]
