"""One formula a file: each method is a pure function of the trace, with its options as fields."""

from vitscope.defaults import FAMILIES, GROUPS
from vitscope.methods.agcam import AGCAM
from vitscope.methods.applies import what_is_read, why_undefined
from vitscope.methods.attcat import AttCAT
from vitscope.methods.attention import Attention
from vitscope.methods.base import Facts, Maps, Method
from vitscope.methods.beyond_intuition import BeyondIntuitionHeads, BeyondIntuitionTokens
from vitscope.methods.cams import EigenCAM, EigenGradCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from vitscope.methods.cdam import CDAM
from vitscope.methods.chefer_lrp import CheferLRP, PartialLRP
from vitscope.methods.daam import DAAM
from vitscope.methods.documentation import Documentation, Option, document
from vitscope.methods.gmar import GMAR
from vitscope.methods.grad_eclip import GradECLIP
from vitscope.methods.grad_sam import GradSAM
from vitscope.methods.input_x_gradient import InputXGradient
from vitscope.methods.integrated_cdam import IntegratedCDAM
from vitscope.methods.integrated_gradients import IntegratedGradients
from vitscope.methods.legrad import LeGrad
from vitscope.methods.libra import LibraFullGrad
from vitscope.methods.lrp import CPLRP, AttnLRP, ResLRP
from vitscope.methods.registry import (
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
from vitscope.methods.rise import RISE
from vitscope.methods.rollout import Chefer, GradientRollout, Rollout
from vitscope.methods.samples import with_budget
from vitscope.methods.scorecam import ScoreCAM
from vitscope.methods.smooth_cdam import SmoothCDAM
from vitscope.methods.smoothgrad import SmoothGrad
from vitscope.methods.tis import TIS
from vitscope.methods.token_ablation import TokenAblation
from vitscope.methods.tokentm import TokenTM
from vitscope.methods.trivial import Center, Frame, Random, centred_gaussian
from vitscope.methods.vit_cx import ViTCX

__all__ = [
    "AGCAM",
    "CDAM",
    "CPLRP",
    "DAAM",
    "FAMILIES",
    "GMAR",
    "GROUPS",
    "RISE",
    "TIS",
    "AttCAT",
    "Attention",
    "AttnLRP",
    "BeyondIntuitionHeads",
    "BeyondIntuitionTokens",
    "Center",
    "Chefer",
    "CheferLRP",
    "Chosen",
    "Documentation",
    "EigenCAM",
    "EigenGradCAM",
    "Facts",
    "Frame",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradECLIP",
    "GradSAM",
    "GradientRollout",
    "HiResCAM",
    "InputXGradient",
    "IntegratedCDAM",
    "IntegratedGradients",
    "LayerCAM",
    "LeGrad",
    "LibraFullGrad",
    "Maps",
    "Method",
    "Option",
    "PartialLRP",
    "Random",
    "ResLRP",
    "Rollout",
    "ScoreCAM",
    "SmoothCDAM",
    "SmoothGrad",
    "TokenAblation",
    "TokenTM",
    "ViTCX",
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
    "with_budget",
]
