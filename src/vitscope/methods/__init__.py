"""One formula a file: each method is a pure function of the trace, with its options as fields."""

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
from vitscope.methods.gmar import GMAR
from vitscope.methods.grad_eclip import GradECLIP
from vitscope.methods.grad_sam import GradSAM
from vitscope.methods.integrated_cdam import IntegratedCDAM
from vitscope.methods.legrad import LeGrad
from vitscope.methods.libra import LibraFullGrad
from vitscope.methods.lrp import CPLRP, AttnLRP, ResLRP
from vitscope.methods.registry import Wanted, as_method, as_methods, list_methods, options_of, register_method
from vitscope.methods.rollout import Chefer, GradientRollout, Rollout
from vitscope.methods.smooth_cdam import SmoothCDAM
from vitscope.methods.tokentm import TokenTM
from vitscope.methods.trivial import Center, Frame, Random, centred_gaussian

__all__ = [
    "AGCAM",
    "CDAM",
    "CPLRP",
    "DAAM",
    "GMAR",
    "AttCAT",
    "Attention",
    "AttnLRP",
    "BeyondIntuitionHeads",
    "BeyondIntuitionTokens",
    "Center",
    "Chefer",
    "CheferLRP",
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
    "IntegratedCDAM",
    "LayerCAM",
    "LeGrad",
    "LibraFullGrad",
    "Maps",
    "Method",
    "PartialLRP",
    "Random",
    "ResLRP",
    "Rollout",
    "SmoothCDAM",
    "TokenTM",
    "Wanted",
    "XGradCAM",
    "as_method",
    "as_methods",
    "centred_gaussian",
    "list_methods",
    "options_of",
    "register_method",
    "what_is_read",
    "why_undefined",
]
