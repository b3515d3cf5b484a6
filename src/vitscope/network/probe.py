"""Where the tokens of a network lie: with attention muted, a token depends only on its own place in the image.

The residual stream, MLPs and convolutions keep information local. So the image is perturbed by noise n, and by n times
a ramp along each spatial axis, and the place of a token with Jacobian J is

    <J (n ramp), J n> / <J n, J n>

A token that does not respond is no image token (class, register, query and text tokens). Where attention itself moves
tokens without a residual connection, it is replaced by the value at the nearest key instead of zero.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vitscope.models.guard import left_as_found
from vitscope.network.grid import fit_grid
from vitscope.network.spec import Fold, InputSpec, Kind, NetworkSpec, Site, TokenLayout, Tokens
from vitscope.recording.calls import AttentionCall, AttentionCalls
from vitscope.trace.hooks import hooks

Call = Callable[[nn.Module, Tensor], Any]
"""The model and images -> its output, with whatever other inputs it takes."""

MOST_DOUBLED = 2 * 10**8
"""The most parameters of a model that is copied in float64 to be probed."""
STEP = {torch.float64: 1e-4, torch.float32: 3e-3}
ROUNDING = 256
"""The largest change that is rounding, as a multiple of the dtype's epsilon and a tensor's largest number."""
DIM = 1e-9
"""The least response of an image token, as a share of the largest."""
GLOBAL = "each of its keys responds to the whole image"
BLURRED = "its keys lie on no clear grid"
DRAWS = 2
"""How many images of noise are compared."""
MORE_DRAWS = 8
"""The same where tokens that respond to a part of the image lie on no clear grid, as after convolutions."""
SURE = 3.0
"""The `quality` of a grid from which on it is taken without more draws."""
WIDE = 0.45
"""The largest extent of a token with a place; of noise over the whole image it is .58."""
_GLOBAL = ({2, 3}, {1, 2}, {-1, -2}, {2, 3, 4}, {-1, -2, -3})


@dataclass
class _Seen:
    """What one muted pass showed. Lists are by attention call."""

    values: list[Tensor] = field(default_factory=list)
    queries: list[Tensor | None] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    inputs: list[Tensor | None] = field(default_factory=list)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    """Of the modules that ended after the last attention call."""


Nearest = dict[int, Tensor]
"""Of a call, the key nearest to each query (r)."""


def probe(model: nn.Module, call: Call, sample: Tensor, seed: int = 0) -> NetworkSpec:
    """Find the attention calls of a network, and where their tokens lie.

    It takes 7 forward passes of one image (9 of a video or volume), and as many again for each layer in which attention
    moves tokens without a residual connection.

    Args:
        model: in any mode; it is left as it was found.
        call: runs it on images.
        sample: one input (1 ...), for its shape, dtype and device; its numbers are not used.
        seed: of the noise.
    """
    devices = [sample.device] if sample.is_cuda else []
    with left_as_found(model), torch.no_grad(), torch.random.fork_rng(devices):
        double = _double(model)
        if double is not None:
            with suppress(Exception):  # parts of a copy may belong to the model; what fails there too is raised below
                return _probed(double, call, sample.double(), seed)
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        return _probed(model, call, sample.to(dtype), seed)


def _probed(model: nn.Module, call: Call, sample: Tensor, seed: int) -> NetworkSpec:
    spec = InputSpec.of(sample)
    passes = _Passes(model, call, spec, sample, torch.Generator().manual_seed(seed))
    nearest: Nearest = {}
    while True:
        responses = passes.responses(nearest)
        sites = _sites(responses)
        if any(_unsure(site) for site in sites) and passes.draws < MORE_DRAWS:
            passes.draw(MORE_DRAWS - passes.draws)
            continue
        more = _nearest(responses, sites)
        if more.keys() <= nearest.keys():
            return NetworkSpec(spec, tuple(sites), tuple(_tokens(responses)), passes.in_batches)
        nearest |= more


def _double(model: nn.Module) -> nn.Module | None:
    """A copy in float64, where the model can be copied and is not too large; else None."""
    parameters = list(model.parameters())
    floats = {p.dtype for p in parameters if p.is_floating_point()}
    if sum(p.numel() for p in parameters) > MOST_DOUBLED or not floats <= {torch.float32, torch.float64}:
        return None
    try:
        made = copy.deepcopy(model).double().eval()
    except Exception:  # a model may refuse to be copied in any way
        return None
    return made if all(p.dtype == torch.float64 for p in made.parameters() if p.is_floating_point()) else None


@dataclass(frozen=True)
class _Response:
    """How a tensor of one sample responds, in two draws: J n, and J (n ramp) for each spatial axis, and its fold."""

    noise: Tensor
    ramps: tuple[Tensor, ...]
    fold: Fold | None

    def placed(self, channel: int = -1) -> _Places:
        """What its tokens' responses say of their places."""
        channel = channel if channel < 0 else channel + 1  # the draws are in front
        energy = self.noise.square().sum(dim=channel).sum(dim=0)
        safe = energy.clamp_min(1e-300)
        along = torch.stack([(ramp * self.noise).sum(dim=channel).sum(dim=0) / safe for ramp in self.ramps], dim=-1)
        whole = torch.stack([ramp.square().sum(dim=channel).sum(dim=0) / safe for ramp in self.ramps], dim=-1)
        return _Places(energy, along, (whole - along.square()).clamp_min(0).sqrt())


@dataclass(frozen=True)
class _Places:
    """Of each token: its response <J n, J n> (... n), its place and its extent (... n axes), from -1 to 1."""

    energy: Tensor
    place: Tensor
    extent: Tensor


@dataclass(frozen=True)
class _Responses:
    """All responses of a probe; None of a tensor that does not depend on the sample."""

    seen: _Seen
    values: list[_Response | None]
    queries: list[_Response | None]
    inputs: list[_Response | None]
    outputs: dict[str, _Response]


class _Passes:
    """Muted passes over an image of noise, and over it with a small change.

    Attributes:
        in_batches: whether the network takes two samples at once.
        draws: how many images of noise are compared.
    """

    def __init__(
        self, model: nn.Module, call: Call, spec: InputSpec, sample: Tensor, generator: torch.Generator
    ) -> None:
        self._model, self._call, self._spec = model, call, spec
        self._step = STEP.get(sample.dtype, 1e-2)

        def drawn() -> Tensor:
            return torch.randn(sample.shape, generator=generator).to(sample)

        self._drawn, self._base = drawn, drawn()
        self._changes: list[Tensor] = []
        self.draws = 0
        self.in_batches = True
        self.draw(DRAWS)

    def draw(self, count: int) -> None:
        """Compare so many more images of noise."""
        self._changes += [change for _ in range(count) for change in self._ramped(self._drawn())]
        self.draws += count

    def responses(self, nearest: Nearest) -> _Responses:
        alone = self._run(self._base, nearest)
        moved = [self._base + self._step * change for change in self._changes]
        pairs = list(zip(moved[::2], moved[1::2], strict=True))
        try:
            both = [self._run(torch.cat(pair), nearest) for pair in pairs]
        except Exception:  # a network may take one sample alone
            self.in_batches = False
            both = []
        if not self.in_batches:
            singles = [self._run(one, nearest) for one in moved]

        def of(take: Callable[[_Seen], Tensor | None]) -> _Response | None:
            base = take(alone)
            if base is None:
                return None
            fold = None
            if self.in_batches:
                found = [take(each) for each in both]
                if found[0] is None or (fold := _fold(base, found[0])) is None:
                    return None
                each = [part for one in found for part in fold.split(one, 2)]  # type: ignore[arg-type]
            else:
                each = [take(one) for one in singles]
            if any(one is None or one.shape != base.shape for one in each):
                return None
            moves = [_change(base, one) / self._step for one in each if one is not None]
            noise, *ramps = torch.stack(moves).unflatten(0, (self.draws, -1)).unbind(dim=1)
            return _Response(noise, tuple(ramps), fold)

        numbers = range(len(alone.values))
        outputs = {name: of(lambda seen, name=name: seen.outputs.get(name)) for name in alone.outputs}  # type: ignore[misc]
        return _Responses(
            alone,
            [of(lambda seen, i=i: _at(seen.values, i)) for i in numbers],  # type: ignore[misc]
            [of(lambda seen, i=i: _at(seen.queries, i)) for i in numbers],  # type: ignore[misc]
            [of(lambda seen, i=i: _at(seen.inputs, i)) for i in numbers],  # type: ignore[misc]
            {name: response for name, response in outputs.items() if response is not None},
        )

    def _ramped(self, noise: Tensor) -> list[Tensor]:
        """The noise, and the noise times a ramp along each spatial axis."""
        found = [noise]
        for axis, count in zip(self._spec.spatial, self._spec.size, strict=True):
            shape = [1] * noise.ndim
            shape[axis] = count
            found.append(noise * torch.linspace(-1, 1, count).to(noise).view(shape))
        return found

    def _run(self, images: Tensor, nearest: Nearest) -> _Seen:
        seen, path = _Seen(), [""]
        entered: list[Tensor | None] = [None]

        def mute(number: int, call: AttentionCall, _: Callable[[AttentionCall], Tensor]) -> Tensor:
            seen.values.append(call.value)
            seen.queries.append(call.query)
            seen.rows.append(call.queries)
            seen.names.append(path[-1])
            seen.inputs.append(entered[-1])
            seen.outputs.clear()
            if number in nearest:
                return call.value.index_select(-2, nearest[number].to(call.value.device))
            return call.value.new_zeros(*call.lead, call.queries, call.value.shape[-1])

        def enter(name: str) -> Callable[[Any], None]:
            def see(first: Any) -> None:
                path.append(name)
                entered.append(first if isinstance(first, Tensor) else None)

            return see

        def leave(name: str) -> Callable[[Any], None]:
            def see(output: Any) -> None:
                if path[-1] == name:
                    path.pop()
                    entered.pop()
                first = output[0] if isinstance(output, tuple | list) and output else output
                if isinstance(first, Tensor) and first.is_floating_point():
                    seen.outputs[name] = first

            return see

        torch.manual_seed(0)  # a network may draw numbers, which are the same in all passes
        with hooks() as hook, AttentionCalls(self._model, mute, _without_global_means):
            for name, module in self._model.named_modules():
                if name:
                    hook.before(module, enter(name))
                    hook.after(module, leave(name))
            self._call(self._model, images)
        return seen


def _change(before: Tensor, after: Tensor) -> Tensor:
    """What is more than rounding, as of another number of samples, in float64."""
    change = after.double() - before.double()
    if not before.is_floating_point() or before.numel() == 0:
        return change
    rounding = ROUNDING * torch.finfo(before.dtype).eps * float(before.abs().max())
    return change.masked_fill(change.abs() <= rounding, 0)


def _at(found: list[Any], number: int) -> Any:
    return found[number] if number < len(found) else None


def _fold(alone: Tensor, both: Tensor) -> Fold | None:
    """How two samples, each nearly the first by itself, lie in a tensor; None where it holds one of them."""
    if alone.ndim != both.ndim:
        return None
    for axis in [axis for axis in range(alone.ndim) if both.shape[axis] == 2 * alone.shape[axis]]:
        for outer in (True, False):
            fold = Fold(axis, outer)
            one = fold.split(both, 2)[0]
            if one.shape == alone.shape and float((one - alone).norm()) < 0.1 * float(alone.norm()):
                return fold
    return None


def _without_global_means(name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Zero in place of a mean over the whole image, as squeeze-and-excitation takes it."""
    if name == "mean" and args and isinstance(args[0], Tensor) and args[0].ndim >= 4:
        dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if isinstance(dims, Sequence) and {*dims} in _GLOBAL:
            return torch.zeros_like(func(*args, **kwargs))
    if name in ("adaptive_avg_pool2d", "adaptive_avg_pool3d") and _ones(
        args[1] if len(args) > 1 else kwargs.get("output_size")
    ):
        return torch.zeros_like(func(*args, **kwargs))
    return NotImplemented


def _ones(size: Any) -> bool:
    return size == 1 or (isinstance(size, Sequence) and all(each == 1 for each in size))


def _sites(responses: _Responses) -> list[Site]:
    found = []
    for number, response in enumerate(responses.values):
        value = responses.seen.values[number]
        layout, reason = (
            (None, "its keys do not depend on the image") if response is None else _layout(response.placed())
        )
        entered = responses.inputs[number]
        tokens, channel = (None, -1) if entered is None else _clearest(entered)
        found.append(
            Site(
                number=number,
                name=responses.seen.names[number],
                kind=_kind(response, layout, responses.queries[number], value.shape[-2], responses.seen.rows[number]),
                queries=responses.seen.rows[number],
                keys=value.shape[-2],
                layout=layout,
                reason=reason,
                fold=None if response is None else response.fold,
                tokens=tokens,
                token_channel=channel,
                token_fold=None if entered is None else entered.fold,
            )
        )
    return found


def _unsure(site: Site) -> bool:
    return site.reason == BLURRED if site.layout is None else site.layout.quality < SURE


def _responds(response: _Response | None) -> bool:
    return response is not None and bool(response.noise.any())


def _kind(
    response: _Response | None, layout: TokenLayout | None, query: _Response | None, keys: int, rows: int
) -> Kind:
    if _responds(response) and layout is None:
        return "channel"
    if _responds(response) and not _responds(query) and rows != keys:
        return "pool" if query is None and rows < keys else "cross"
    return "self" if _responds(response) == _responds(query) or query is None else "cross"


def _layout(places: _Places) -> tuple[TokenLayout | None, str]:
    """The layout of one sample's tokens (... n), or None and the reason why they have none."""
    most = float(places.energy.max()) if places.energy.numel() else 0.0
    if most <= 0:
        return None, "its keys do not respond to the image"
    places, responds, shared = _pooled(places, places.energy > DIM * most)
    if int(responds.sum()) < 2:
        return None, "a single key responds to the image"
    if bool((places.extent[responds].median(dim=0).values > WIDE).any()):
        return None, GLOBAL
    grid = fit_grid(places.place[responds].cpu())
    if grid is None or math.prod(grid.shape) < 2:
        return None, BLURRED
    cells = torch.full(responds.shape, -1, dtype=torch.long)
    cells[responds.cpu()] = grid.cells
    for axis, size in shared:
        cells = cells.unsqueeze(axis).expand(*cells.shape[:axis], size, *cells.shape[axis:])
    return TokenLayout(grid.shape, cells.contiguous(), grid.quality), ""


def _pooled(places: _Places, responds: Tensor) -> tuple[_Places, Tensor, list[tuple[int, int]]]:
    """The same without leading axes along which all places agree, such as heads, and these axes with their sizes."""
    shared: list[tuple[int, int]] = []
    energy, place, extent = places.energy, places.place, places.extent
    for axis in reversed(range(energy.ndim - 1)):
        weight = (energy * responds).unsqueeze(-1)
        whole = weight.sum(dim=axis, keepdim=True).clamp_min(1e-300)
        mean = (place * weight).sum(dim=axis, keepdim=True) / whole
        apart = float((place - mean)[responds].abs().mean())
        kept = responds.any(dim=axis, keepdim=True)
        spread = float((mean[kept] - mean[kept].mean(dim=0)).abs().mean())
        if energy.shape[axis] == 1 or apart < 0.3 * spread:
            shared.insert(0, (axis, energy.shape[axis]))
            place, extent = mean.squeeze(axis), ((extent * weight).sum(dim=axis, keepdim=True) / whole).squeeze(axis)
            responds, energy = kept.squeeze(axis), energy.sum(dim=axis)
    return _Places(energy, place, extent), responds, shared


def _nearest(responses: _Responses, sites: list[Site]) -> Nearest:
    """If no signal comes to some sites: for those before that move tokens, the key that is nearest to each query."""
    dead = [site.number for site in sites if site.fold is not None and not _responds(responses.values[site.number])]
    found: Nearest = {}
    for site in sites:
        query, value = responses.queries[site.number], responses.values[site.number]
        if not dead or site.number >= dead[-1] or site.layout is None or value is None or not _responds(query):
            continue
        assert query is not None
        at_query, at_key = (_mean_place(each.placed()) for each in (query, value))
        if len(site.layout.cells[site.layout.cells >= 0].unique()) == site.keys:  # one window
            found[site.number] = torch.cdist(at_query, at_key).argmin(dim=1)
    return found


def _mean_place(places: _Places) -> Tensor:
    """Each token's place (n axes), mean over heads."""
    weight = places.energy.unsqueeze(-1).flatten(0, -3)
    return (places.place.flatten(0, -3) * weight).sum(dim=0) / weight.sum(dim=0).clamp_min(1e-300)


def _tokens(responses: _Responses) -> list[Tokens]:
    """The located outputs of the modules that end last."""
    found = []
    for name, response in responses.outputs.items():
        if response.noise.ndim > 3 and (response.fold is None or response.fold.axis == 0):
            layout, channel = _clearest(response)
            if layout is not None and 1 < layout.located == len(layout.cells[layout.cells >= 0].unique()):
                found.append(Tokens(name, layout, channel, response.fold))
    return found


def _clearest(response: _Response) -> tuple[TokenLayout | None, int]:
    """The layout of tokens (... n d), or of channels first (b d ...), whichever is clearer, and the channels' axis."""
    axes = [-1, 1] if response.noise.ndim > 4 else [-1]
    found = [(layout, axis) for axis in axes if (layout := _layout(response.placed(axis))[0]) is not None]
    return max(found, key=lambda each: each[0].quality, default=(None, -1))
