"""A pass over any network: its attention calls and located tokens, with the gradients of all targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vitscope.errors import MethodError, ModelError, TargetError
from vitscope.network.spec import Fold, NetworkSpec, TokenLayout
from vitscope.recording.altered import AlteredInputs
from vitscope.recording.calls import AttentionCall, AttentionCalls
from vitscope.recording.output import Score, detached, logits_of, scored
from vitscope.recording.record import AttentionRecord, by_sample, resized
from vitscope.trace.backward import AnotherBackward, Rules
from vitscope.trace.guard import left_as_found
from vitscope.trace.hold import at_least_float32
from vitscope.trace.hooks import hooks
from vitscope.trace.needs import Blocks, Needs
from vitscope.trace.pictures import Report


@dataclass(frozen=True)
class Network:
    """A network and what the probe found of it.

    Attributes:
        model: the module, never changed.
        call: runs it on images, with whatever other inputs it takes -> its raw output.
        spec: of its input, sites and tokens.
        readouts: by output, which queries of each site lead to it without passing a later attention, or None where
            they change with the target or the image; filled by passes.
    """

    model: nn.Module
    call: Callable[[nn.Module, Tensor], Any]
    spec: NetworkSpec
    readouts: dict[str, dict[int, Tensor] | None] = field(default_factory=dict)

    @property
    def separable(self) -> bool:
        """Whether several samples run at once can be separated in every tensor that is read."""
        sites = self.spec.located
        folds = [site.fold for site in sites] + [site.token_fold for site in sites if site.tokens is not None]
        return self.spec.in_batches and None not in [*folds, *(each.fold for each in self.spec.tokens)]


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


@dataclass(frozen=True)
class Recording:
    """What methods read of a pass over any network.

    Attributes:
        output: the network's raw output, without its graph.
        values: of every target, (b m).
        images: the input, (b ...).
        spatial: its spatial axes.
        grid: the finest grid of what was read.
        sites: located attention calls that a target's gradient reaches, in order.
        module_tokens: the input of the last of these sites' module.
        layer_tokens: the output of the last module with located tokens that a gradient reaches, by path of the
            gradient: "full", or the name of a backward pass's rules.
        without: why there is no gradient of some rules, by their name.
        input_gradients: of every target at the input, (b m ...), where asked for.
        without_sites: why there are no sites, or "".
        altered: the network, to be run on altered copies of the input.
    """

    output: Any
    values: Tensor
    images: Tensor
    spatial: tuple[int, ...]
    grid: tuple[int, ...]
    sites: tuple[AttentionRecord, ...]
    module_tokens: LocatedTokens | None
    layer_tokens: Mapping[str, LocatedTokens | None]
    input_gradients: Tensor | None = None
    without_sites: str = ""
    altered: AlteredInputs | None = None
    without: Mapping[str, str] = field(default_factory=dict)

    @property
    def targets(self) -> int:
        """How many targets m there are."""
        return self.values.shape[1]

    @property
    def logits(self) -> Tensor:
        """The (b c) logits; where the output has none, the targets' values (b m)."""
        found = logits_of(self.output)
        return self.values if found is None else found

    def pictures(self) -> AlteredInputs:
        """The network, to be run on altered copies of the input.

        Raises:
            MethodError: no method declared that it needs it.
        """
        if self.altered is None:
            raise MethodError("the network was not kept for altered inputs; declare `pictures` in the needs")
        return self.altered

    def reporting(self, report: Report | None) -> Recording:
        """The same; what runs the network on altered inputs reports its forwards."""
        return replace(self, altered=None if self.altered is None else self.altered.reporting(report))

    def on_grid(self, site: AttentionRecord, values: Tensor) -> Tensor:
        """What was computed for each key of a site (... n) -> its sum in each cell (b, the site's grid)."""
        return site.on_grid(values)

    def need_layer(self, path: str = "full") -> LocatedTokens:
        """The last located tokens of a module that a gradient along this path reaches.

        Raises:
            MethodError: there are none, or a layer has no rule for the path.
        """
        if path in self.without:
            raise MethodError(self.without[path])
        found = self.layer_tokens.get(path)
        if found is None:
            raise MethodError("no module has an output whose tokens have a place; use daam, input_x_gradient")
        return found

    def at_input(self) -> Tensor:
        """The gradient of every target at the input, (b m ...).

        Raises:
            MethodError: no method declared that it needs it.
        """
        if self.input_gradients is None:
            raise MethodError("the gradient at the input was not recorded; declare `input_gradient` in the needs")
        return self.input_gradients

    def cell_sums(self, values: Tensor) -> Tensor:
        """Sums over channels and over each cell's pixels, (b m, the input's axes) -> (b m grid), in float32."""
        spatial = [axis + 1 for axis in self.spatial]
        channels = [axis for axis in range(2, values.ndim) if axis not in spatial]
        summed = values.float().sum(dim=channels) if channels else values.float()
        return resized(summed, self.grid)

    def fine(self, maps: Tensor) -> Tensor:
        """Maps (... coarse grid) on the finest grid, with the same sum."""
        return resized(maps, self.grid)

    def need_sites(self) -> tuple[AttentionRecord, ...]:
        """The sites, at least one.

        Raises:
            MethodError: there is none.
        """
        if not self.sites:
            raise MethodError(f"{self.without_sites}; use gradcam, input_x_gradient")
        return self.sites

    def chain(self) -> tuple[AttentionRecord, ...]:
        """The sites, where they pass one sequence of tokens from each to the next.

        Raises:
            MethodError: they do not.
        """
        sites = self.need_sites()
        first = sites[0].site
        for each in sites:
            site, cells = each.site, each.layout.cells
            one_window = int((cells >= 0).sum(dim=-1).max()) == len(cells[cells >= 0].unique())
            if site.kind != "self" or site.queries != site.keys or site.keys != first.keys or not one_window:
                raise MethodError(
                    f"it multiplies attention matrices from each call to the next, and those of {site.name} and "
                    f"{first.name} are of different tokens; use daam, agcam"
                )
        return sites


def record_network(
    network: Network, images: Tensor, needs: Needs, scores: Sequence[Score], readout: str | None
) -> Recording:
    """One forward pass, and a backward pass for each target; another of both for the skip path, and for each rule set.

    Args:
        network: it.
        images: the batch, of the network's dtype and on its device.
        needs: the union of what the methods read.
        scores: the targets.
        readout: a name of the output that all targets are read from, under which its readout is kept from call to
            call; None for targets whose readout may change with the image.

    Raises:
        TargetError: a target fails, or gives no differentiable value for each sample.
    """
    spec = network.spec
    full = needs.full_gradient > Blocks.NONE or needs.rerun or needs.sensitivity > Blocks.NONE or needs.input_gradient
    rows_needed = needs.attention > Blocks.NONE or needs.full_gradient > Blocks.NONE
    without: dict[str, str] = {}
    with left_as_found(network.model):
        known = None
        if rows_needed and readout is not None and needs.skip_gradient == Blocks.NONE:
            if readout not in network.readouts:
                network.readouts[readout] = _readout(network, images[:1], scores)
            known = network.readouts[readout]
        skip = needs.skip_gradient > Blocks.NONE or (rows_needed and known is None)
        passes: dict[str, _Pass] = {}
        if full or not skip:
            passes["full"] = _run(network, images, scores, False, needs)
        if skip:
            passes["skip"] = _run(network, images, scores, True, Needs())
        for rules in needs.backward:
            try:
                passes[rules.name] = _run(network, images, scores, False, replace(needs, input_gradient=False), rules)
            except MethodError as error:
                without[rules.name] = str(error)
    main = passes.get("full") or passes["skip"]
    for name in {rules.name for rules in needs.backward} & passes.keys():
        if not torch.allclose(passes[name].values, main.values, rtol=1e-3, atol=1e-4):
            without[name] = (
                f"the pass by the rules of {name} gives another output than the model's own, as where a layer changes "
                "its input in place; use path=full"
            )
    full_pass, skip_pass = passes.get("full"), passes.get("skip")
    if skip_pass is not None and not _any(skip_pass.gradients):
        # no located site is read directly, as in front of latents: all their rows count, with the whole gradient
        full_pass = full_pass or _run(network, images, scores, False, Needs())
        skip_pass.gradients = full_pass.gradients
        skip_pass.calls = full_pass.calls
    records = []
    for site in spec.located:
        calls = main.calls.get(site.number)
        if calls is None:
            continue
        gradients = {
            path: each.gradients[site.number] for path, each in passes.items() if site.number in each.gradients
        }
        reached = any(bool(one.any()) for each in gradients.values() for one in each)
        if reached:
            records.append(
                AttentionRecord(
                    site, len(images), calls, gradients, None if known is None else known.get(site.number), without
                )
            )
    layouts = [each.layout.grid for each in records] or [tokens.grid for tokens in (main.module, main.layer) if tokens]
    grid = max(layouts, key=math.prod) if layouts else spec.grid
    return Recording(
        main.output,
        main.values,
        images,
        spec.input.spatial,
        grid,
        tuple(records),
        main.module,
        {"full": main.layer} | {name: each.layer for name, each in passes.items() if name != "skip"},
        main.at_input,
        "" if records else _why_none(spec),
        without=without,
    )


def _why_none(spec: NetworkSpec) -> str:
    """Why no attention call of a pass is read."""
    if spec.located:
        return (
            "the target's gradient is zero at every attention call whose keys have a place in the image, as where its "
            "output is cut off at zero"
        )
    if spec.sites:
        reasons = dict.fromkeys(site.reason for site in spec.sites)
        return f"the keys of its {len(spec.sites)} attention calls have no place in the image ({'; '.join(reasons)})"
    return "it makes no attention call that torch shows"


def _any(gradients: Mapping[int, Sequence[Tensor]]) -> bool:
    return any(bool(one.any()) for each in gradients.values() for one in each)


@dataclass
class _Pass:
    """What one forward and backward pass found."""

    output: Any
    values: Tensor
    calls: dict[int, AttentionCall]
    gradients: dict[int, list[Tensor]]
    module: LocatedTokens | None
    layer: LocatedTokens | None
    at_input: Tensor | None


def _readout(network: Network, image: Tensor, scores: Sequence[Score]) -> dict[int, Tensor] | None:
    """Of each site the queries that lead to a target without passing a later attention, (k) indices.

    None where they are not the same for these targets, for some logits, and for an altered image, as of a maximum.
    """
    logits = [partial(_logit, place) for place in (0.0, 0.5, 1.0)]
    passes = [_run(network, one, [*scores, *logits], True, Needs()) for one in (image, image.flip(-1))]
    rows = {
        number: torch.stack(
            [one.any(dim=-1).flatten(0, -2).any(dim=0) for each in passes for one in each.gradients[number]]
        )
        for number in passes[0].gradients
    }
    if any(bool((each != each[0]).any()) for each in rows.values()):
        return None
    return {number: each[0].nonzero()[:, 0] for number, each in rows.items()}


def _logit(place: float, raw: Any) -> Tensor:
    """The logit at this place between the first (0) and the last (1)."""
    logits = logits_of(raw)
    assert logits is not None
    return logits[:, round(place * (logits.shape[1] - 1))]


def _run(
    network: Network, images: Tensor, scores: Sequence[Score], skip: bool, needs: Needs, rules: Rules | None = None
) -> _Pass:
    """A pass along the skip path or not, with the ordinary backward pass or one by rules."""
    spec, model = network.spec, network.model
    located = {site.number: site for site in spec.located or spec.sites}
    outputs: dict[int, Tensor] = {}
    calls: dict[int, AttentionCall] = {}
    entered: dict[str, Tensor] = {}
    at_module: dict[int, Tensor] = {}
    at_layers: dict[str, Tensor] = {}

    def answer(number: int, call: AttentionCall, run: Callable[[AttentionCall], Tensor]) -> Tensor:
        result = run(call.detached() if skip else call)
        site = located.get(number)
        if site is None:
            return result
        if not result.requires_grad:
            leaf = result.detach().requires_grad_()
            outputs[number], result = leaf, leaf.clone()
        else:
            outputs[number] = result
        if site.layout is not None:
            calls[number] = call.kept()
        if site.name in entered:
            at_module[number] = entered[site.name]
        return result

    def started(tensor: Tensor) -> Tensor:
        if not (isinstance(tensor, Tensor) and tensor.is_floating_point()):
            return tensor
        return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()

    def enter(name: str) -> Callable[[Tensor], Tensor]:
        def make(tensor: Tensor) -> Tensor:
            entered[name] = made = started(tensor)
            return made.clone() if isinstance(made, Tensor) and made.is_leaf else made

        return make

    modules = dict(model.named_modules())
    tokens_needed = needs.rerun or needs.sensitivity > Blocks.NONE
    with torch.enable_grad(), hooks() as hook:
        if tokens_needed and not skip:
            for name in {site.name for site in located.values() if site.tokens is not None}:
                hook.replace_tokens(modules[name], enter(name))
            for each in spec.tokens:
                hook.replace_output(modules[each.name], _kept(at_layers, each.name, started))
        leaf = images.detach()
        whole = not (skip or rules)  # rules begin at the first tokens that are read, after the patches' own layer
        if leaf.is_floating_point() and whole and (needs.input_gradient or tokens_needed or not located):
            leaf = leaf.requires_grad_()
        another = nullcontext() if rules is None else AnotherBackward(rules, model)
        with another, AttentionCalls(model, answer):
            raw = network.call(model, leaf)
        values = torch.stack([scored(score, raw, len(images)) for score in scores], dim=1)
        if not values.is_floating_point():
            raise TargetError(f"a target must give floating-point numbers, got {values.dtype}; return output[:, 0]")
        if not values.isfinite().all():
            image = int((~values.isfinite()).any(dim=1).nonzero()[0])
            raise ModelError(f"the model's output for image {image} is not finite; check its weights and its input")
        if not values.requires_grad and leaf.requires_grad:
            raise TargetError(
                "no gradient leads from the target to the model: the target, or the model, detaches it (argmax, "
                "detach, torch.no_grad); use a target that is differentiable, such as output[:, 0]"
            )
        if not (skip or rules or needs.attention or needs.full_gradient):
            outputs = {}
        sought: list[Tensor] = [*outputs.values(), *at_module.values(), *at_layers.values()]
        if needs.input_gradient and not skip:
            sought.append(leaf)
        found = [_gradients(values[:, slot], sought, slot + 1 < len(scores)) for slot in range(len(scores))]
    by_tensor = list(zip(*found, strict=True)) if sought else []
    gradients = {number: list(by_tensor[place]) for place, number in enumerate(outputs)}
    start = len(outputs)
    module = _last_located(
        [
            (
                tensor,
                by_tensor[start + place],
                located[number].tokens,
                located[number].token_fold,
                located[number].token_channel,
            )
            for place, (number, tensor) in enumerate(at_module.items())
        ],
        len(images),
    )
    start += len(at_module)
    by_name = {each.name: each for each in spec.tokens}
    layer = _last_located(
        [
            (tensor, by_tensor[start + place], by_name[name].layout, by_name[name].fold, by_name[name].channel)
            for place, (name, tensor) in enumerate(at_layers.items())
        ],
        len(images),
    )
    at_input = torch.stack(by_tensor[-1], dim=1) if needs.input_gradient and not skip else None
    return _Pass(detached(raw), values.detach(), calls, gradients, module, layer or module, at_input)


def _kept(into: dict[str, Tensor], name: str, started: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    def make(output: Any) -> Any:
        first = output[0] if isinstance(output, tuple | list) else output
        made = started(first)
        if isinstance(made, Tensor):
            into.pop(name, None)
            into[name] = made
        given = made.clone() if isinstance(made, Tensor) and made.is_leaf else made
        if isinstance(output, tuple):
            return (given, *output[1:])
        return [given, *output[1:]] if isinstance(output, list) else given

    return make


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
