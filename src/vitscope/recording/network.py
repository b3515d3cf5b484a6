"""A pass over any network: its attention calls and located tokens, with the gradients of all targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vitscope.errors import MethodError
from vitscope.network.spec import NetworkSpec
from vitscope.recording.altered import AlteredInputs
from vitscope.recording.one_pass import LocatedTokens, Pass, run_pass
from vitscope.recording.output import Score, logits_of
from vitscope.recording.record import AttentionRecord, resized
from vitscope.trace.backward import Rules
from vitscope.trace.guard import left_as_found
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
    """One forward pass, and a backward pass for each target; others of both for the skip path and for each rule set.

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
    without: dict[str, str] = {}
    with left_as_found(network.model):
        known = None
        if _reads_rows(needs) and readout is not None and needs.skip_gradient == Blocks.NONE:
            if readout not in network.readouts:
                network.readouts[readout] = _readout(network, images[:1], scores[0])
            known = network.readouts[readout]
        passes = _passes(network, images, needs, scores, known is not None)
        main = passes.get("full") or passes["skip"]
        for rules in needs.backward:
            found = _by_rules(network, images, needs, scores, rules, main.values)
            if isinstance(found, Pass):
                passes[rules.name] = found
            else:
                without[rules.name] = found
    records = []
    for site in network.spec.located:
        of_site = {path: each.gradients[site.number] for path, each in passes.items() if site.number in each.gradients}
        if site.number in main.calls and any(bool(one.any()) for each in of_site.values() for one in each):
            rows = None if known is None else known.get(site.number)
            records.append(AttentionRecord(site, len(images), main.calls[site.number], of_site, rows, without))
    layouts = [each.layout.grid for each in records] or [tokens.grid for tokens in (main.module, main.layer) if tokens]
    return Recording(
        main.output,
        main.values,
        images,
        network.spec.input.spatial,
        max(layouts, key=math.prod) if layouts else network.spec.grid,
        tuple(records),
        main.module,
        {"full": main.layer} | {name: each.layer for name, each in passes.items() if name != "skip"},
        main.at_input,
        "" if records else _why_none(network.spec),
        without=without,
    )


def _reads_rows(needs: Needs) -> bool:
    """Whether methods read the readout rows of attention."""
    return needs.attention > Blocks.NONE or needs.full_gradient > Blocks.NONE


def _passes(
    network: Network, images: Tensor, needs: Needs, scores: Sequence[Score], rows_known: bool
) -> dict[str, Pass]:
    """The pass in full and the one along the skip path, as far as they are needed; at least one."""
    tokens = needs.rerun or needs.sensitivity > Blocks.NONE
    skip = needs.skip_gradient > Blocks.NONE or (_reads_rows(needs) and not rows_known)
    passes: dict[str, Pass] = {}
    if needs.full_gradient > Blocks.NONE or tokens or needs.input_gradient or not skip:
        passes["full"] = run_pass(network, images, scores, False, needs)
    if skip:
        passes["skip"] = along = run_pass(network, images, scores, True, Needs())
        if not _any(along.gradients):
            # no located site is read directly, as in front of latents: all their rows count, with the whole gradient
            full = passes.get("full") or run_pass(network, images, scores, False, Needs())
            along.gradients, along.calls = full.gradients, full.calls
    return passes


def _by_rules(
    network: Network, images: Tensor, needs: Needs, scores: Sequence[Score], rules: Rules, values: Tensor
) -> Pass | str:
    """A pass whose backward pass follows the rules, or why there is none."""
    try:
        found = run_pass(network, images, scores, False, replace(needs, input_gradient=False), rules)
    except MethodError as error:
        return str(error)
    if torch.allclose(found.values, values, rtol=1e-3, atol=1e-4):
        return found
    return (
        f"the pass by the rules of {rules.name} gives another output than the model's own, as where a layer changes "
        "its input in place; use path=full"
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


def _readout(network: Network, image: Tensor, score: Score) -> dict[int, Tensor] | None:
    """Of each site the queries that lead to a target without passing a later attention, (k) indices.

    None where they are not the same for some logits, and for an altered image, as of a maximum.
    """
    logits = [partial(_logit, place, score) for place in (0.0, 0.5, 1.0)]
    passes = [run_pass(network, one, logits, True, Needs()) for one in (image, image.flip(-1))]
    rows = {
        number: torch.stack(
            [one.any(dim=-1).flatten(0, -2).any(dim=0) for each in passes for one in each.gradients[number]]
        )
        for number in passes[0].gradients
    }
    if any(bool((each != each[0]).any()) for each in rows.values()):
        return None
    return {number: each[0].nonzero()[:, 0] for number, each in rows.items()}


def _logit(place: float, score: Score, raw: Any) -> Tensor:
    """The logit at this place, from the first (0) to the last (1); without logits the target, which says so."""
    logits = logits_of(raw)
    if logits is None or logits.shape[1] == 0:
        return score(raw)
    return logits[:, round(place * (logits.shape[1] - 1))]
