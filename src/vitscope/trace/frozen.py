"""Weights that enter a graph as views without a gradient, so that the model's own flags are never touched."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode


class Frozen:
    """Gives each parameter of a model that asks for a gradient as a view that does not."""

    def __init__(self, model: nn.Module) -> None:
        self._views = {id(p): p.detach() for p in model.parameters() if p.requires_grad}

    def all(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A call's arguments with every parameter replaced."""
        return tuple(self._of(args)), dict(zip(kwargs, self._of(kwargs.values()), strict=True)) if kwargs else kwargs

    def _of(self, args: Iterable[Any]) -> list[Any]:
        """The views of parameters, also within a list of tensors, as torch.cat takes it; at every call of a pass."""
        views = self._views
        return [self._within(arg) if isinstance(arg, list | tuple) else views.get(id(arg), arg) for arg in args]

    def _within(self, parts: list[Any] | tuple[Any, ...]) -> Any:
        known = any(id(part) in self._views for part in parts)
        return [self._views.get(id(part), part) for part in parts] if known else parts


class FrozenWeights(TorchFunctionMode):
    """Within it, in this thread, no gradient is kept for the model's weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._frozen = Frozen(model)

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = self._frozen.all(args, kwargs or {})
        return func(*args, **kwargs)
