"""What is where in any module: known itself, within torch's wrappers, or within a module of anyone's own."""

from __future__ import annotations

from torch import nn

from vitscope.errors import ModelError
from vitscope.models.anatomy import Anatomy
from vitscope.models.placed import is_foreign, seen_through
from vitscope.models.registry import described, families
from vitscope.models.within import describe_within, unwrapped


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
    if (anatomy := described(model)) is not None:
        return seen_through(model, anatomy, f"this {anatomy.family}") if is_foreign(anatomy) else anatomy
    anatomy = describe_within(model, described) or describe_timm_blocks(model)
    if anatomy is not None:
        return anatomy
    raise ModelError(
        f"no adapter knows the model class {type(model).__name__}; known families: {', '.join(families())}. "
        "Say where its parts are with vitscope.adapt (docs/adapters.md)"
    )
