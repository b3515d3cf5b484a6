"""vitscope's methods in the call signatures of Captum, Quantus and pytorch-grad-cam; none of them has to be there."""

from vitscope.bridges.to_captum import CaptumAttribution
from vitscope.bridges.to_grad_cam import CAM
from vitscope.bridges.to_quantus import ExplainFunc, quantus

__all__ = ["CAM", "CaptumAttribution", "ExplainFunc", "quantus"]
