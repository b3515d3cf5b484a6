"""Pictures of raw maps: normalised, coloured and laid over the photograph, each step by a named function.

`scale` holds the normalisations, `palette` the colours, `overlay` one map on its photograph, `tiles` a map with its
name and colour bar, `sheet` all methods side by side, `evolution` the growth from block to block as a strip or an
animation. Nothing here knows of models; raw values come in, pictures go out, and what the model did not see
is shown as unseen.
"""

from vitscope.view.evolution import animation, filmstrip, under_headings
from vitscope.view.overlay import OPACITY, at_size, blend, fit, overlay
from vitscope.view.palette import DIVERGING, SEQUENTIAL, colour
from vitscope.view.scale import clipped, daam_display, daam_frames, global_max, limits, minmax, symmetric
from vitscope.view.sheet import contact, sheet
from vitscope.view.tiles import Panel, colour_bar

__all__ = [
    "DIVERGING",
    "OPACITY",
    "SEQUENTIAL",
    "Panel",
    "animation",
    "at_size",
    "blend",
    "clipped",
    "colour",
    "colour_bar",
    "contact",
    "daam_display",
    "daam_frames",
    "filmstrip",
    "fit",
    "global_max",
    "limits",
    "minmax",
    "overlay",
    "sheet",
    "symmetric",
    "under_headings",
]
