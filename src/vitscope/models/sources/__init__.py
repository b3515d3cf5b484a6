"""Where models come from, one file a source; each has `names()`, what can be listed offline, and `load(request)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vitscope.models.loaded import Loaded, Request
from vitscope.models.sources import from_hf, from_hub, from_open_clip, from_t2t, from_timm, from_torchvision


@dataclass(frozen=True)
class Source:
    """A library that models come from.

    Attributes:
        load: builds a model.
        names: what it can load, as far as that can be said offline, without the source's own name.
        example: of a name.
    """

    load: Callable[[Request], Loaded]
    names: Callable[[], list[str]]
    example: str


SOURCES: dict[str, Source] = {
    "timm": Source(from_timm.load, from_timm.names, "timm/vit_tiny_patch16_224"),
    "hf": Source(from_hf.load, from_hf.names, "hf/google/vit-base-patch16-224"),
    "torchvision": Source(from_torchvision.load, from_torchvision.names, "torchvision/vit_b_16"),
    "open_clip": Source(from_open_clip.load, from_open_clip.names, "open_clip/ViT-B-32:laion2b_s34b_b79k"),
    "t2t": Source(from_t2t.load, from_t2t.names, "t2t/t2t_vit_14"),
    "hub": Source(from_hub.load, from_hub.names, "hub/dino_vits16"),
}

__all__ = ["SOURCES", "Source"]
