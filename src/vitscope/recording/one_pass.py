"""One forward and backward pass of a network: its attention calls, tokens with a place, and all targets' gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vitscope.errors import ModelError, TargetError
from vitscope.network.spec import Fold, Site, TokenLayout
from vitscope.recording.calls import AttentionCall, AttentionCalls
from vitscope.recording.output import Score, detached, scored
from vitscope.recording.record import by_sample
from vitscope.trace.backward import AnotherBackward, Rules
from vitscope.trace.hold import at_least_float32
from vitscope.trace.hooks import hooks
from vitscope.trace.needs import Blocks, Needs

if TYPE_CHECKING:
    from vitscope.recording.network import Network


@dataclass(frozen=True)
class LocatedTokens:
    """Tokens with a place, and the gradients of all targets there.

    Attributes:
        values: (b cells D), by cell of the grid in reading order.
        gradients: of every target, (b m cells D).
        grid: their grid.
    """

    values: Tensor
    gradients: Tensor
    grid: tuple[int, ...]


@dataclass
class Pass:
    """What one forward and backward pass found.

    Attributes:
        output: the raw output, without its graph.
        values: of every target, (b m).
        calls: located attention calls by number.
        gradients: of every target at each call's output (... r d), by number.
        module: the input of the last of these calls' module.
        layer: the output of the last module with located tokens that a gradient reaches.
        at_input: every target's gradient at the input, (b m ...), where asked for.
    """

    output: Any
    values: Tensor
    calls: dict[int, AttentionCall]
    gradients: dict[int, list[Tensor]]
    module: LocatedTokens | None
    layer: LocatedTokens | None
    at_input: Tensor | None


def run_pass(
    network: Network, images: Tensor, scores: Sequence[Score], skip: bool, needs: Needs, rules: Rules | None = None
) -> Pass:
    """A pass along the skip path or not, with the ordinary backward pass or one by rules.

    Raises:
        TargetError: a target fails, or gives no differentiable value for each sample.
        ModelError: an output is not finite.
        MethodError: a layer has no rule.
    """
    spec = network.spec
    tokens = not skip and (needs.rerun or needs.sensitivity > Blocks.NONE)
    inputs = needs.input_gradient and not skip
    watch = _Watch({site.number: site for site in spec.located or spec.sites}, skip)
    leaf = images.detach()
    from_input = not (skip or rules)  # rules begin at the first tokens that are read, after the patches' own layer
    if leaf.is_floating_point() and from_input and (inputs or tokens or not watch.sites):
        leaf = leaf.requires_grad_()
    with torch.enable_grad(), hooks() as hook:
        if tokens:
            modules = dict(network.model.named_modules())
            for name in {site.name for site in watch.sites.values() if site.tokens is not None}:
                hook.replace_tokens(modules[name], partial(watch.enter, name))
            for each in spec.tokens:
                hook.replace_output(modules[each.name], partial(watch.leave, each.name))
        another = nullcontext() if rules is None else AnotherBackward(rules, network.model)
        with another, AttentionCalls(network.model, watch.answer):
            raw = network.call(network.model, leaf)
        values = _values(raw, scores, len(images), leaf.requires_grad)
        outputs = watch.outputs if skip or rules or needs.attention or needs.full_gradient else {}
        sought = [*outputs.values(), *watch.inputs.values(), *watch.layers.values(), *([leaf] if inputs else [])]
        found = [_gradients(values[:, slot], sought, slot + 1 < len(scores)) for slot in range(len(scores))]
    at = iter(zip(*found, strict=True)) if sought else iter(())
    gradients = {number: list(next(at)) for number in outputs}
    sites = [watch.sites[number] for number in watch.inputs]
    module = _last_located(
        [(tensor, next(at), site.tokens, site.token_fold, site.token_channel)
         for site, tensor in zip(sites, watch.inputs.values(), strict=True)],
        len(images),
    )  # fmt: skip
    by_name = {each.name: each for each in spec.tokens}
    layers = [(by_name[name], tensor, next(at)) for name, tensor in watch.layers.items()]
    layer = _last_located(
        [(tensor, each, located.layout, located.fold, located.channel) for located, tensor, each in layers], len(images)
    )
    at_input = torch.stack(next(at), dim=1) if inputs else None
    return Pass(detached(raw), values.detach(), watch.calls, gradients, module, layer or module, at_input)


@dataclass
class _Watch:
    """What a forward pass shows: attention calls with their outputs, the input of their modules, outputs of others.

    Where no gradient comes in, the graph begins.
    """

    sites: Mapping[int, Site]
    skip: bool
    outputs: dict[int, Tensor] = field(default_factory=dict)
    calls: dict[int, AttentionCall] = field(default_factory=dict)
    inputs: dict[int, Tensor] = field(default_factory=dict)
    layers: dict[str, Tensor] = field(default_factory=dict)
    _entered: dict[str, Tensor] = field(default_factory=dict)

    def answer(self, number: int, call: AttentionCall, run: Callable[[AttentionCall], Tensor]) -> Tensor:
        """Run an attention call and keep what is read of it."""
        result = run(call.detached() if self.skip else call)
        site = self.sites.get(number)
        if site is None:
            return result
        self.outputs[number], result = _begun(result)
        if site.layout is not None:
            self.calls[number] = call.kept()
        if site.name in self._entered:
            self.inputs[number] = self._entered[site.name]
        return result

    def enter(self, name: str, tensor: Tensor) -> Tensor:
        """The tokens that an attention's module is given."""
        self._entered[name], given = _begun(tensor)
        return given

    def leave(self, name: str, output: Any) -> Any:
        """The output of a module, or the first part of it."""
        first = output[0] if isinstance(output, tuple | list) else output
        if not isinstance(first, Tensor):
            return output
        self.layers.pop(name, None)
        self.layers[name], given = _begun(first)
        if isinstance(output, tuple):
            return (given, *output[1:])
        return [given, *output[1:]] if isinstance(output, list) else given


def _begun(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """A tensor at which a gradient is taken, and the one to go on with."""
    if not (isinstance(tensor, Tensor) and tensor.is_floating_point()):
        return tensor, tensor
    if tensor.requires_grad:
        seen = tensor.view_as(tensor)
        return seen, seen
    leaf = tensor.detach().requires_grad_()
    return leaf, leaf.clone()


def _values(raw: Any, scores: Sequence[Score], samples: int, graph: bool) -> Tensor:
    """Every target's value, (b m)."""
    values = torch.stack([scored(score, raw, samples) for score in scores], dim=1)
    if not values.is_floating_point():
        raise TargetError(f"a target must give floating-point numbers, got {values.dtype}; return output[:, 0]")
    if not values.isfinite().all():
        image = int((~values.isfinite()).any(dim=1).nonzero()[0])
        raise ModelError(f"the model's output for image {image} is not finite; check its weights and its input")
    if not values.requires_grad and graph:
        raise TargetError(
            "no gradient leads from the target to the model: the target, or the model, detaches it (argmax, "
            "detach, torch.no_grad); use a target that is differentiable, such as output[:, 0]"
        )
    return values


def _gradients(value: Tensor, sought: list[Tensor], again: bool) -> list[Tensor]:
    if not sought or not value.requires_grad:
        return [torch.zeros_like(one) for one in sought]
    found = torch.autograd.grad(value.sum(), sought, allow_unused=True, retain_graph=again)
    return [
        at_least_float32(torch.zeros_like(one) if each is None else each)
        for one, each in zip(sought, found, strict=True)
    ]


def _last_located(
    candidates: list[tuple[Tensor, Sequence[Tensor], TokenLayout | None, Fold | None, int]], samples: int
) -> LocatedTokens | None:
    """The last of these tensors that has located tokens which a gradient reaches, by cell."""
    for tensor, gradients, layout, fold, channel in reversed(candidates):
        if layout is None:
            continue
        axis = channel if channel < 0 else channel + 1  # the samples are in front
        cells = layout.cells.flatten().to(tensor.device)
        placed = partial(_placed, cells=cells, count=math.prod(layout.grid), axis=axis, fold=fold, samples=samples)
        at = torch.stack([placed(one) for one in gradients], dim=1)
        if bool(at.any()):
            return LocatedTokens(placed(tensor), at, layout.grid)
    return None


def _placed(tensor: Tensor, cells: Tensor, count: int, axis: int, fold: Fold | None, samples: int) -> Tensor:
    """Tokens by cell, (b cells D)."""
    flat = by_sample(at_least_float32(tensor.detach()), fold, samples).movedim(axis, -1).flatten(1, -2)
    kept = (cells >= 0).nonzero()[:, 0]
    summed = flat.new_zeros(samples, count, flat.shape[-1])
    return summed.index_add(1, cells[kept], flat[:, kept])
