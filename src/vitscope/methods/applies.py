"""Which method is defined for which model, decided from the facts of both; what a method reads there, in words."""

from __future__ import annotations

import torch

from vitscope.methods.base import Method
from vitscope.methods.registry import as_method, list_methods
from vitscope.models import Anatomy
from vitscope.trace import NO_GRADIENT, Blocks, why_no_rule


def why_undefined(anatomy: Anatomy, method: Method) -> str:
    """Why the method is not defined for the model and which is, or "" where it is."""
    if not (anatomy.described or method.facts.any_network):
        return "it needs a description of the model, which was not understood; use daam, agcam, cdam, gradcam"
    if not anatomy.described:
        return ""
    if anatomy.windows and method.facts.any_network and not method.facts.chained:
        return ""
    if anatomy.windows and method.facts.of_rows:
        others = ", ".join(facts.name for facts in list_methods() if not (facts.of_rows or facts.trivial))
        return (
            "it follows rows of tokens from the blocks to the output, and this model's attention stays within windows "
            f"or pools its keys; use {others}"
        )
    if method.needs.hiding and not anatomy.whole:
        others = ", ".join(facts.name for facts in list_methods() if _alters_pixels(facts.name))
        return (
            "it leaves patch tokens out, and in this model they meet before the blocks with a class token, where they "
            f"cannot be hidden from each other; use {others}"
        )
    if method.facts.of_tokens and not any(block.hands_on for block in anatomy.blocks[:-1]):
        return (
            "it follows patch tokens from block to block, and here they reach the class token through a norm alone, "
            "along which gradient times token is 0; use chefer, attention"
        )
    if method.facts.divides and (kind := _half(anatomy, method)):
        return f"it divides by sums that may nearly cancel, and {kind} gives another map; run the model in float32"
    if anatomy.windows:
        return ""
    if not anatomy.differentiable and _goes_back(anatomy, method):
        return NO_GRADIENT
    for rules in method.needs.backward:
        if reason := why_no_rule(anatomy, rules):
            return reason
    return ""


def _goes_back(anatomy: Anatomy, method: Method) -> bool:
    """Whether the method needs a gradient through the blocks, not closed forms alone."""
    needs = method.needs
    through = needs.full_gradient == Blocks.ALL and len(anatomy.blocks) > 1
    return through or needs.input_gradient or method.facts.family == "input-gradient"


def _half(anatomy: Anatomy, method: Method) -> str:
    """The half precision that the method's numbers come from, or "": other backward passes run as the weights are."""
    weights = next(anatomy.model.parameters()).dtype
    if weights in (torch.float16, torch.bfloat16):
        return str(weights).removeprefix("torch.")
    lowered = anatomy.running.lowers and not method.needs.backward
    return anatomy.running.precision if lowered else ""


def _alters_pixels(name: str) -> bool:
    needs = as_method(name).needs
    return needs.pictures and not needs.hiding


def what_is_read(anatomy: Anatomy) -> str:
    """The rows of the model's attention that methods read."""
    if not anatomy.described:
        return "the rows of every attention call that lead to the target"
    if anatomy.windows:
        stages = len({window.stage for window in anatomy.windows})
        return f"what keys receive, {len(anatomy.windows)} attentions in {stages} stages"
    if not anatomy.blocks[-1].residual:
        return f"every row; in the last block the learned query of {anatomy.blocks[-1].name}"
    if anatomy.rows_read is None:
        return "every row"
    return " and ".join(f"the {name} token's row" for name in anatomy.prefix[: anatomy.rows_read])
