"""The modules and weights that a description was verified with, recorded so that later changes are noticed."""

from __future__ import annotations

import copy
import weakref
from collections import defaultdict
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES = 32
"""Values of each tensor that are compared."""

Values = dict[tuple[torch.dtype, torch.device], Tensor]
Settings = dict[tuple[int, str], Any]
"""Number of the module, name of its attribute -> value."""

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


class ModelState:
    """The modules, their settings and the weights of a model at one time; `==` tells whether two states are the same.

    Recording takes a few operations per tensor, whatever its size. Weights are compared by identity and by torch's
    version counter, which every in-place operation increments. Changes through `.data` do not increment it; they are
    found in a sample of `SAMPLES` evenly spaced values per tensor, so a change of very few values can be missed.
    Tensors on the meta device or without plain storage (quantised, sharded) are not sampled.
    """

    def __init__(self, model: nn.Module) -> None:
        """Record `model` as it is now."""
        modules = list(model.modules())
        weights = [
            tensor
            for module in modules
            for tensor in chain(module._parameters.values(), module._buffers.values())
            if tensor is not None
        ]
        self._modules = [_identity(module) for module in modules]
        self._settings = {
            (number, name): value for number, module in enumerate(modules) for name, value in _settings(module).items()
        }
        self._passing: frozenset[tuple[int, str]] = frozenset()
        self._versions = [(id(tensor), None if tensor.is_inference() else tensor._version) for tensor in weights]
        self._values = _sample(weights)

    def after_passes(self, later: ModelState) -> ModelState:
        """This state, without the settings that passes up to `later` changed, such as a module's count of its calls."""
        changed = {place for place, value in self._settings.items() if later._settings.get(place, value) != value}
        self._passing = frozenset(changed | (later._settings.keys() - self._settings.keys()))
        return self

    def _settings_but(self, passing: frozenset[tuple[int, str]]) -> Settings:
        passing |= self._passing
        return {place: value for place, value in self._settings.items() if place not in passing}

    __hash__ = None  # type: ignore[assignment]  # compared, never a key

    def __reduce__(self) -> tuple[Any, ...]:
        """The state of no model, so that a copy of a model is verified where it arrives."""
        return ModelState, (nn.Module(),)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ModelState)
            and self._modules == other._modules
            and self._settings_but(other._passing) == other._settings_but(self._passing)
            and self._versions == other._versions
            and self._values.keys() == other._values.keys()
            and all(torch.equal(self._values[kind], other._values[kind]) for kind in self._values)
        )


def _identity(module: nn.Module) -> tuple[Any, ...]:
    """The module itself, what is called in place of it, and its hooks."""
    forward = vars(module).get("forward", getattr(type(module), "forward", None))
    hooks = tuple(module._forward_pre_hooks), tuple(module._forward_hooks)
    return weakref.ref(module), type(module), forward, hooks


def _settings(module: nn.Module) -> dict[str, Any]:
    """Attributes that may change what a module does: numbers, texts, collections of these, and functions by identity.

    Other objects, such as a tensor that the module keeps of its last pass, are left out.
    """
    settings = {}
    for name, value in vars(module).items():
        if name not in _OF_EVERY_MODULE and (callable(value) or _is_plain(value)):
            settings[name] = id(value) if callable(value) else _copied(value)
    return settings


def _copied(value: Any) -> Any:
    """`value`, or a copy if it can be changed in place; most settings are single values, which need none."""
    return copy.deepcopy(value) if isinstance(value, dict | tuple | list | set | frozenset) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, tuple | list | set | frozenset):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _sample(weights: list[Tensor]) -> Values:
    """Evenly spaced values of all tensors, joined by dtype and device so that few operations compare them."""
    parts: dict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
    for tensor in weights:
        if type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_meta:
            values = tensor.detach().flatten()
            parts[tensor.dtype, tensor.device].append(values[:: max(1, len(values) // SAMPLES)])
    return {kind: torch.cat(each) for kind, each in parts.items()}
