"""A known model within a module that no adapter knows: a wrapper, preprocessing before it, a head of one's own behind.

What the outer module does with the inner one is seen in one pass over random pictures, never guessed from names.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from vitscope.activation import declared_activation
from vitscope.errors import ModelError
from vitscope.models.anatomy import Anatomy, Classifier
from vitscope.models.guard import left_as_found
from vitscope.models.parts import outputs_of
from vitscope.models.placed import seen_through

Describe = Callable[[nn.Module], Anatomy | None]


def unwrapped(model: nn.Module) -> nn.Module:
    """The module in torch's own wrappers: DataParallel and kin, torch.compile'd."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def describe_within(model: nn.Module, describe: Describe) -> Anatomy | None:
    """Describe `model` by the one known model inside of it; None where there is none.

    The outer module may prepare the images, flip, turn by quarters, crop, pad or resize them, and may put one module
    behind the inner model's output.

    Raises:
        ModelError: several known models, or an outer module that does something else.
    """
    inner = _known(model, describe)
    if inner is None:
        return None
    name, anatomy = inner
    where = f"{name}, a {anatomy.family}, is inside a {type(model).__name__}"
    anatomy = seen_through(model, anatomy, where)
    seen = _watch(model, anatomy)
    if isinstance(seen, str):
        raise ModelError(
            f"{where}, {seen}; explain {name} itself, or describe the whole with vitscope.adapt (docs/adapters.md)"
        )
    if seen is None:
        call, activation = (lambda images: _tensor(model(images))), declared_activation(anatomy.model)
        return dataclasses.replace(anatomy, model=model, call=call, activation=activation)
    return _with_head(model, anatomy, seen)


def _known(model: nn.Module, describe: Describe) -> tuple[str, Anatomy] | None:
    """The outermost submodule that an adapter knows, by name."""
    found: dict[str, Anatomy] = {}
    for name, module in model.named_modules():
        if not name or any(name.startswith(f"{known}.") for known in found):
            continue
        anatomy = describe(module)
        if anatomy is not None:
            found[name] = anatomy
    if len(found) > 1:
        raise ModelError(
            f"{type(model).__name__} holds several models ({', '.join(found)}); explain one of them by itself"
        )
    return next(iter(found.items()), None)


def _watch(model: nn.Module, inner: Anatomy) -> nn.Module | str | None:
    """What the outer module puts behind the inner model: a module, nothing, or why that cannot be told."""
    # Several pictures: on one an outer module may do nothing by chance.
    picture = torch.randn(4, 3, *inner.input_size, generator=torch.Generator().manual_seed(1))
    parameter = next(model.parameters())
    picture = picture.to(parameter.device, parameter.dtype)
    calls: list[tuple[nn.Module, Any, Any, Any]] = []
    own = set(inner.model.modules()) - {inner.model}
    thread = threading.get_ident()

    def see(*call: Any) -> None:
        if threading.get_ident() == thread:
            calls.append(call)

    with left_as_found(model), torch.no_grad(), ExitStack() as hooks:
        for module in model.modules():
            if module not in own:
                hooks.callback(module.register_forward_hook(see, with_kwargs=True).remove)
        try:
            output = model(picture)
        except Exception as error:  # a module of anyone's own may raise anything
            return f"which does not take a picture of {inner.input_size[0]} x {inner.input_size[1]} pixels ({error})"
    output = _tensor(output)
    within = [
        (_first(inputs, named), _tensor(result)) for module, inputs, named, result in calls if module is inner.model
    ]
    if len(within) != 1:
        return f"which calls it {len(within)} times in one pass"
    given, result = within[0]
    if not isinstance(given, Tensor) or len(given) != len(picture):
        return "which changes the number of images before it"
    if _same(output, result):
        return None
    behind = [
        module
        for module, inputs, named, made in calls
        if module not in (model, inner.model) and _same(_first(inputs, named), result) and _same(made, output)
    ]
    return behind[0] if behind else "which changes its output by more than one module"


def _first(inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return inputs[0] if inputs else next(iter(named.values()), None)


def _tensor(output: Any) -> Any:
    """The logits of transformers' records and of mappings with "logits", any other output as it is."""
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return logits if isinstance(logits, Tensor) else output


def _same(one: Any, other: Any) -> bool:
    return (
        isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)
    )


def _with_head(model: nn.Module, inner: Anatomy, head: nn.Module) -> Anatomy:
    """The inner model with `head` on its output."""
    outputs = outputs_of(head, told=inner.outputs)
    if inner.call is not None:
        raise ModelError(
            f"a {type(head).__name__} stands behind a {inner.family} within a {type(model).__name__}; explain the "
            "model itself, or describe the whole with vitscope.adapt (docs/adapters.md)"
        )
    whole = dataclasses.replace(inner, model=model, call=lambda images: _tensor(model(images)), outputs=outputs)
    if type(head) is nn.Linear and inner.classifier is None:
        return dataclasses.replace(whole, classifier=Classifier((head,)))

    def features(rows: Tensor) -> Tensor:
        read: Tensor = head(inner.output(inner.features(rows)))
        return read

    return dataclasses.replace(whole, features=features, classifier=None)
