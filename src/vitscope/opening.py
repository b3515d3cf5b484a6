"""What an Explainer is given, opened: a model with what came with it, its labels, a device."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitscope.errors import ModelError, TargetError
from vitscope.images import Preprocessing
from vitscope.models import Anatomy, Loaded, load, of_module
from vitscope.targets import ClassNames

_LOG = logging.getLogger(__name__)


def opened(
    model: nn.Module | Anatomy | str,
    weights: str | os.PathLike[str] | None,
    pretrained: bool,
    preprocessing: Preprocessing | Mapping[str, Any] | None,
    device: str | torch.device | None,
    weights_key: str | None = None,
) -> Loaded:
    """The model with what came with it; by name, it is built for the input size that the preprocessing asks for.

    Raises:
        ModelError: it cannot be loaded or brought to the device, or weights are given for an nn.Module.
    """
    if not isinstance(model, str):
        loaded = of_module(
            model.model if isinstance(model, Anatomy) else model, asked=not isinstance(preprocessing, Preprocessing)
        )
        if weights is not None or weights_key is not None:
            given = f"weights_key={weights_key} is" if weights is None else f"weights={weights} are"
            raise ModelError(
                f"{given} for a model given by name, and this is a {type(loaded.model).__name__}; load "
                "weights into it (model.load_state_dict) and leave this out"
            )
        if device is not None:
            _tell_elsewhere(loaded.model, device)
        return loaded
    size = preprocessing.size if isinstance(preprocessing, Preprocessing) else (preprocessing or {}).get("size")
    if isinstance(size, int):
        size = (size, size)
    loaded = load(
        model,
        weights,
        pretrained=pretrained,
        image_size=None if size is None else tuple(size),
        weights_key=weights_key,
    )
    try:
        loaded.model.to(device or "cpu")
    except (RuntimeError, AssertionError) as error:
        raise _no_device(device, error) from error
    return loaded


def _tell_elsewhere(model: nn.Module, device: str | torch.device) -> None:
    """Say in the log where a module stays on another device than the one that is asked for.

    Raises:
        ModelError: there is no such device.
    """
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise _no_device(device, error) from error
    where = next(model.parameters()).device
    if where.type != asked.type or asked.index not in (None, where.index or 0):
        _LOG.warning(
            "device '%s' is for a model given by name; this %s stays on %s, move it by model.to('%s')",
            device,
            type(model).__name__,
            where,
            device,
        )


def _no_device(device: str | torch.device | None, error: Exception) -> ModelError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ModelError(f"device '{device}' cannot be used ({reason}); vitscope doctor lists what is there")


def fields_of(asked: Mapping[str, Any] | None, loaded: Loaded, anatomy: Anatomy) -> dict[str, Any]:
    """What replaces the model's own preprocessing: what the user asks for, and the one size that the model takes."""
    known = loaded.preprocessing
    fixed = known is not None and not anatomy.flexible_size and known.size != anatomy.input_size
    return ({"size": anatomy.input_size} if fixed else {}) | dict(asked or {})


def names_of(labels: ClassNames | str | os.PathLike[str] | None, own: tuple[str, ...], outputs: int) -> ClassNames:
    """The names of a model's outputs: as asked for, else its own, else ImageNet's for 1000, else none.

    Raises:
        TargetError: the labels cannot be read, or are not as many as the outputs.
    """
    if labels is None:
        if own and len(own) == outputs:
            return ClassNames(own)
        return ClassNames.of_imagenet() if outputs == 1000 else ClassNames()
    names = labels if isinstance(labels, ClassNames) else ClassNames.read(labels)
    if outputs and len(names) != outputs:
        raise TargetError(f"{len(names)} labels for a model of {outputs} outputs; give the labels of this model")
    return names


def random_picture(size: tuple[int, int], channels: int = 3) -> Tensor:
    """Of a model's size (height, width), (1 C H W), the same each time."""
    return torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0))
