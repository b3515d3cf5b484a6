"""What is where in any module: known itself, within torch's wrappers, or within a module of anyone's own."""

from __future__ import annotations

import torch
from torch import nn

from vitscope.errors import ModelError, RefusedError
from vitscope.models.anatomy import Anatomy
from vitscope.models.placed import is_foreign, seen_through
from vitscope.models.registry import described, families
from vitscope.models.within import describe_within, unwrapped

_NO_GRADIENT = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized", "bitsandbytes")
"""Packages of quantised layers."""


def check_kind(model: nn.Module) -> None:
    """Refuse modules whose parts cannot be watched or pass no gradient.

    Raises:
        ModelError: TorchScript, or quantised layers.
    """
    kind = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise RefusedError(
            f"the model is TorchScript ({kind}), whose parts cannot be watched; build the Python model, load its "
            "weights (model.load_state_dict(scripted.state_dict())), and explain that"
        )
    for name, part in model.named_modules():
        if type(part).__module__.startswith(_NO_GRADIENT):
            raise RefusedError(
                f"{name or kind} is a quantised layer ({type(part).__module__}.{type(part).__name__}), whose weights "
                "cannot be read and which passes no gradient; explain the model as it is before it is quantised"
            )


def anatomy_of(model: nn.Module | Anatomy) -> Anatomy:
    """Find out what is where in `model`; what `adapt` described stays as it is.

    Raises:
        ModelError: no adapter knows the model, or its adapter names a part that it cannot describe.
    """
    if isinstance(model, Anatomy):
        return model
    if not isinstance(model, nn.Module):
        raise ModelError(f"a model must be a torch.nn.Module or a name such as timm/NAME, not {type(model).__name__}")
    from vitscope.models.timm_blocks import describe_timm_blocks  # which needs timm

    model = unwrapped(model)
    check_kind(model)
    try:
        if (anatomy := described(model)) is not None:
            return seen_through(model, anatomy, f"this {anatomy.family}") if is_foreign(anatomy) else anatomy
        anatomy = describe_within(model, described) or describe_timm_blocks(model)
    except ModelError as error:
        if compiled := [name for name, part in model.named_modules() if unwrapped(part) is not part]:
            raise RefusedError(
                f"{type(model).__name__} has parts that are compiled by themselves ({compiled[0]}), of which this was "
                f"not understood: {error}; explain the model as it is before torch.compile (part._orig_mod)"
            ) from error
        raise
    if anatomy is not None:
        return anatomy
    raise ModelError(
        f"no adapter knows the model class {type(model).__name__}; known families: {', '.join(families())}. "
        "Say where its parts are with vitscope.adapt (docs/adapters.md)"
    )
