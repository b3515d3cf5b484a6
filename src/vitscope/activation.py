"""What turns a model's outputs into probabilities: softmax, sigmoid, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vitscope.errors import ModelError
from vitscope.options import check_choice

if TYPE_CHECKING:  # the command line reads the choices before it imports torch
    from torch import Tensor, nn

Activation = Literal["softmax", "sigmoid", "none"]
"""Of classes of which one is right; of classes each right or wrong by itself; of values, as of a regression."""

_PROBLEM_TYPES: dict[str, Activation] = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "none",
}
"""transformers' `config.problem_type`."""


def activation_of_problem(problem_type: object) -> Activation | None:
    """The activation of transformers' `problem_type`; None for any other value."""
    return _PROBLEM_TYPES.get(problem_type) if isinstance(problem_type, str) else None


def declared_activation(model: nn.Module) -> Activation | None:
    """What a module's own config declares of its outputs; None where it declares nothing.

    transformers' `config.problem_type`. timm has no field for it; a `problem_type` that was added to a module's
    `pretrained_cfg` is read.
    """
    own = getattr(getattr(model, "config", None), "problem_type", None)
    config = getattr(model, "pretrained_cfg", None)
    return activation_of_problem(own or (config.get("problem_type") if isinstance(config, dict) else None))


def resolved_activation(asked: Activation | None, declared: Activation | None, outputs: int) -> Activation:
    """The activation of a head: as asked for, else as declared, else softmax for several outputs and none for one.

    Args:
        asked: by the user.
        declared: by the model; "softmax" says nothing of a single output, whose softmax is always 1.
        outputs: of the head; 0 without one, whose features have no probabilities.

    Raises:
        ModelError: no activation, or one that is undefined for so many outputs.
    """
    if asked is None:
        if outputs == 0:
            return "none"
        found = declared or "softmax"
        return "none" if outputs == 1 and found == "softmax" else found
    check_choice("activation", asked, Activation, ModelError)
    if outputs == 0 and asked != "none":
        raise ModelError(f"activation={asked}: the model has no classifier head; leave the activation out")
    if outputs == 1 and asked == "softmax":
        raise ModelError("activation=softmax: the softmax of a single output is always 1; give sigmoid, or none")
    return asked


def activated(output: Tensor, activation: Activation) -> Tensor:
    """The probabilities of outputs (b c), (b c); the outputs themselves where they have none."""
    if activation == "none":
        return output
    return output.softmax(dim=1) if activation == "softmax" else output.sigmoid()
