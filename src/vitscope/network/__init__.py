"""What a network consists of, found by probing it."""

from vitscope.network.probe import probe
from vitscope.network.spec import Fold, InputSpec, NetworkSpec, Site, TokenLayout, Tokens

__all__ = ["Fold", "InputSpec", "NetworkSpec", "Site", "TokenLayout", "Tokens", "probe"]
