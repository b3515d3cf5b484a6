"""One formula a file: each method is a pure function of the trace, with its options as fields."""

from vitscope.methods.agcam import AGCAM
from vitscope.methods.applies import what_is_read, why_undefined
from vitscope.methods.attention import Attention
from vitscope.methods.base import FAMILIES, Facts, Maps, Method
from vitscope.methods.cams import EigenCAM, EigenGradCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from vitscope.methods.cdam import CDAM
from vitscope.methods.daam import DAAM
from vitscope.methods.documentation import Documentation, Option, document
from vitscope.methods.integrated_cdam import IntegratedCDAM
from vitscope.methods.registry import (
    GROUPS,
    Chosen,
    Wanted,
    as_method,
    as_methods,
    choose,
    family_of,
    list_methods,
    options_of,
    register_method,
)
from vitscope.methods.rollout import Chefer, GradientRollout, Rollout
from vitscope.methods.smooth_cdam import SmoothCDAM
from vitscope.methods.trivial import Center, Frame, Random, centred_gaussian

__all__ = [
    "AGCAM",
    "CDAM",
    "DAAM",
    "FAMILIES",
    "GROUPS",
    "Attention",
    "Center",
    "Chefer",
    "Chosen",
    "Documentation",
    "EigenCAM",
    "EigenGradCAM",
    "Facts",
    "Frame",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradientRollout",
    "HiResCAM",
    "IntegratedCDAM",
    "LayerCAM",
    "Maps",
    "Method",
    "Option",
    "Random",
    "Rollout",
    "SmoothCDAM",
    "Wanted",
    "XGradCAM",
    "as_method",
    "as_methods",
    "centred_gaussian",
    "choose",
    "document",
    "family_of",
    "list_methods",
    "options_of",
    "register_method",
    "what_is_read",
    "why_undefined",
]
