"""Measure which part of the image each patch shows: wrappers and foreign code may flip, crop or resize it on the way.

Two images of noise, A and B, are cut together along a row or a column: A before it, B behind it. Every pixel (or token)
that arrives shows the one or the other, and so tells on which side of the cut it lies. This holds for any processing
that keeps places, differentiable or not: normalisation, gamma, rounding, grey values, blur. The cuts' places in the
inner image give the affine map; each pixel is then checked against it.
"""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vitscope.errors import ModelError, text_of
from vitscope.images import Placement
from vitscope.models.anatomy import Anatomy, Grid
from vitscope.models.guard import left_as_found

Arriving = Callable[[Tensor], Tensor]
"""Images (n 3 H W) -> what arrives of them in front of the model or its blocks, (n channels rows cols)."""

_CUTS = 24
"""Along each axis, at most."""

_AT_ONCE = 16
_RESPONDS = 0.02
"""Share of the mean response below which a pixel shows nothing of the image, as padding does."""

Range = tuple[Callable[..., Tensor], float, float]

_RANGES: tuple[Range, ...] = (
    (torch.rand, 255.0, 0.0),
    (torch.rand, 0.4, 0.6),
    (torch.randn, 0.7, -1.0),
    (torch.rand, 1.0, 0.0),
)
"""Noise, factor and offset of each pair of images: the ranges of values that models take, bright and dark ones, so that
what depends on the image's content is noticed; of tokens, which cost more, the last two are taken."""

_LIBRARIES = {"torch", "timm", "torchvision", "transformers", "open_clip", "vitscope"}


class NotPlacedError(Exception):
    """What arrives is no axis-aligned image of what was given; the text begins with "which", after the outer module."""


class _ArrivedError(BaseException):
    """Ends a pass; no `except Exception` of a wrapper's own shall catch it."""

    def __init__(self, given: Any) -> None:
        self.given = given


def arriving(model: nn.Module, call: Callable[[Tensor], Any], site: nn.Module) -> Callable[[Tensor], Any]:
    """Images -> the first input of `site`, a module of `model`, in a pass that ends there.

    Raises:
        NotPlacedError: the pass does not get there.
    """
    thread = threading.get_ident()

    def stop(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if threading.get_ident() == thread:
            raise _ArrivedError(inputs[0] if inputs else next(iter(named.values()), None))

    def see(images: Tensor) -> Any:
        with left_as_found(model), torch.no_grad():
            handle = site.register_forward_pre_hook(stop, with_kwargs=True)
            try:
                call(images)
            except _ArrivedError as arrived:
                return arrived.given
            except (torch.OutOfMemoryError, MemoryError):
                raise
            except Exception as error:  # a module of anyone's own may raise anything
                size = f"{images.shape[-2]} x {images.shape[-1]}"
                raise NotPlacedError(f"which does not take an image of {size} pixels ({text_of(error)})") from error
            finally:
                handle.remove()
        raise NotPlacedError("which does not call it")

    return see


def arriving_images(model: nn.Module, call: Callable[[Tensor], Any], inner: nn.Module) -> Arriving:
    """Images -> the images that the module `inner` is given within `model`, which `call` runs."""
    see = arriving(model, call, inner)

    def images_of(images: Tensor) -> Tensor:
        given = see(images)
        if not isinstance(given, Tensor) or given.ndim != 4 or given.shape[:2] != images.shape[:2]:
            found = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise NotPlacedError(f"which gives it {found} for images {tuple(images.shape)}")
        return given

    return images_of


def arriving_tokens(model: nn.Module, call: Callable[[Tensor], Any], block: nn.Module, grid: Grid) -> Arriving:
    """Images -> the patch tokens that enter the first block of `model`, which `call` runs, on their grid."""
    see = arriving(model, call, block)
    cells = grid[0] * grid[1]

    def tokens_of(images: Tensor) -> Tensor:
        tokens = see(images)
        if not isinstance(tokens, Tensor) or tokens.ndim != 3 or tokens.shape[1] < cells:
            found = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            raise NotPlacedError(f"whose first block is given {found} where {cells} patch tokens are expected")
        on_grid: Tensor = tokens[:, -cells:].mT.unflatten(-1, grid)
        return on_grid

    return tokens_of


def is_foreign(anatomy: Anatomy) -> bool:
    """Whether code from outside of the known libraries takes part in front of the blocks or behind them."""
    inside = {part for block in anatomy.blocks for part in block.module.modules()}
    around = [module for module in anatomy.model.modules() if module not in inside]
    return any(
        type(module).__module__.partition(".")[0] not in _LIBRARIES
        or bool(module._forward_pre_hooks or module._forward_hooks)
        or any(callable(value) and hasattr(type(module), name) for name, value in vars(module).items())
        for module in around
    ) or any(block.module._forward_pre_hooks for block in anatomy.blocks[:1])


def seen_through(model: nn.Module, inner: Anatomy, where: str) -> Anatomy:
    """The description of `inner` for the images that `model` is given, which is around it or the same.

    How they reach it is measured for each size that is asked for; at once for one that fits.

    Args:
        model: the outer module.
        inner: the description of a known model. Where code of others' takes part in it, what arrives is measured at its
            first convolution, and its patch tokens must lie likewise, or are placed by themselves.
        where: for messages, where the inner model is.

    Raises:
        ModelError: how images reach the inner model cannot be expressed.
    """
    foreign = is_foreign(inner)
    call = inner.call or model if model is inner.model else model
    arrive = arriving_images(model, call, (_first_convolution(inner.model) if foreign else None) or inner.model)
    parameter = next(model.parameters())

    def size_within(size: Grid) -> Grid:
        height, width = arrive(torch.zeros(1, 3, *size).to(parameter)).shape[-2:]
        return height, width

    @once_for_each_size
    def placement(size: Grid) -> Placement:
        try:
            found = measured(arrive, size, model)
            if foreign and inner.blocks and inner.whole:
                tokens = arriving_tokens(model, call, inner.blocks[0].module, inner.grid(found.inner))
                found = measured(tokens, size, model, inner.patch, found)
            return found
        except NotPlacedError as error:
            raise ModelError(
                f"{where}, {error}; explain the inner model on images that are changed already, or do it in "
                "preprocessing="
            ) from error

    size = _outer_size(size_within, inner)
    placement(size)
    return dataclasses.replace(
        inner, placement=placement, grid=lambda size: inner.grid(placement(size).inner), input_size=size
    )


def with_token_placement(anatomy: Anatomy) -> Anatomy:
    """The description of a model that no adapter knows: where its patch tokens lie on its image is measured.

    It is measured whenever it is asked for; an Explainer, in which the description is known to fit, keeps it.
    """

    def placement(size: Grid) -> Placement:
        tokens = arriving_tokens(anatomy.model, anatomy.forward, anatomy.blocks[0].module, anatomy.grid(size))
        try:
            return measured(tokens, size, anatomy.model, anatomy.patch)
        except NotPlacedError as error:
            raise ModelError(
                f"the patches of {anatomy.name} do not lie on its image as on a grid: it is a model {error}; take the "
                "change of the image out of the model and into preprocessing="
            ) from error

    return dataclasses.replace(anatomy, placement=placement)


def _first_convolution(model: nn.Module) -> nn.Module | None:
    """Of images of three channels."""
    layers = (module for module in model.modules() if isinstance(module, nn.Conv2d) and module.in_channels == 3)
    return next(layers, None)


def _outer_size(size_within: Callable[[Grid], Grid], inner: Anatomy) -> Grid:
    """A size (height, width) at which the inner model is given the size that it was built for.

    That size itself is tried, turned, one with a margin, and a scaled one. Where none fits, the first: running it says
    why.
    """
    wanted = inner.input_size

    def given(size: Grid) -> Grid | None:
        try:
            return size_within(size) if min(size) > 0 else None
        except NotPlacedError:
            return None

    first = given(wanted)
    if first is None or first == wanted:
        return wanted
    margin = (2 * wanted[0] - first[0], 2 * wanted[1] - first[1])
    scaled = (round(wanted[0] ** 2 / first[0]), round(wanted[1] ** 2 / first[1]))
    return next((size for size in (wanted[::-1], margin, scaled) if given(size) == wanted), wanted)


def once_for_each_size(placement: Callable[[Grid], Placement]) -> Callable[[Grid], Placement]:
    """`placement`, where each size is measured once."""
    known: dict[Grid, Placement] = {}

    def found(size: Grid) -> Placement:
        size = (int(size[0]), int(size[1]))
        if size not in known:
            known[size] = placement(size)
        return known[size]

    return found


def measured(
    arrive: Arriving, size: Grid, model: nn.Module, cell: Grid = (1, 1), expected: Placement | None = None
) -> Placement:
    """How what arrives lies on images of `size` (height, width).

    Args:
        arrive: as of `arriving_images` or `arriving_tokens`.
        size: of the outer image.
        model: whose device and dtype the images have.
        cell: height and width, in pixels of the inner image, of each place that arrives: (1, 1) of pixels, a patch of
            tokens.
        expected: given back where what arrives lies as it says, to three quarters of a cell.

    Raises:
        NotPlacedError: the relation is not axis-aligned, depends on the image, or is drawn at random.
    """
    cuts = [_cuts(side) for side in size]
    ranges = _RANGES if cell == (1, 1) else _RANGES[-2:]
    products, norms = _products(arrive, size, cuts, ranges, next(model.parameters()))
    each = products.split([len(places) for places in cuts])
    if expected is not None:
        near = max(_bound(expected), 0.75 * _side(expected, cell))  # overlapping patches may be centred elsewhere
        if _error(expected, each, norms, cuts, cell) <= near:
            return expected
    placement = _fitted(each, norms, cuts, size, cell)
    off, bound = _error(placement, each, norms, cuts, cell), max(_bound(placement), _side(placement, cell) / 4)
    # A patch that a cut divides tells its place less well than a pixel, so that of patches only this much is asked.
    simple = _in_whole_pixels(placement, cell)
    if _error(simple, each, norms, cuts, cell) <= (min(bound, 1.25 * off + 0.01) if cell == (1, 1) else bound):
        return simple
    if not off <= bound:
        raise NotPlacedError(
            "which changes the image's geometry by more than flips, quarter turns, crops, padding and resizing, or "
            f"each image in its own way: the best such map is {off:.1f} pixels off on average"
        )
    return placement


def _bound(placement: Placement) -> float:
    """By how many pixels of the outer image what arrives may lie off its place (root mean square)."""
    return max(1.0, max(placement.outer) / 48, *map(abs, placement.scale))


def _side(placement: Placement, cell: Grid) -> float:
    """The longer side of a cell in pixels of the outer image."""
    return max(abs(placement.scale[axis]) * cell[axis] for axis in (0, 1))


def _fitted(each: Sequence[Tensor], norms: Tensor, cuts: Sequence[Tensor], size: Grid, cell: Grid) -> Placement:
    """The affine map by which the cuts' places in the inner image follow from those in the outer one.

    Args:
        each: products of the cuts along rows, and of those along columns, as of `_responses`.
        norms: likewise.
        cuts: where they are.
        size, cell: as of `measured`.
    """
    profiles = [[_profile(of_cuts, norms, axis) for axis in (0, 1)] for of_cuts in each]  # outer axis, inner axis
    steps = [[float((p[:, 0] - p[:, -1]).abs().mean()) for p in of_axes] for of_axes in profiles]
    transposed = steps[0][1] + steps[1][0] > steps[0][0] + steps[1][1]
    (scale0, offset0), (scale1, offset1) = (
        _affine(cuts[outer], profiles[outer][inner], cell[inner])
        for inner, outer in enumerate((1, 0) if transposed else (0, 1))
    )
    inner_size = norms.shape[0] * cell[0], norms.shape[1] * cell[1]
    return Placement((size[0], size[1]), inner_size, (scale0, scale1), (offset0, offset1), transposed)


def _in_whole_pixels(placement: Placement, cell: Grid) -> Placement:
    """The inner image's edges at whole pixels of the outer one, or at its edges where these are within 0.4 patches."""
    scale, offset = [], []
    for axis in (0, 1):
        side = placement.outer[1 - axis if placement.transposed else axis]
        near = 0.4 * abs(placement.scale[axis]) * cell[axis] if cell[axis] > 1 else 0.0
        ends = placement.offset[axis], placement.offset[axis] + placement.scale[axis] * placement.inner[axis]
        start, stop = (next((edge for edge in (0, side) if abs(end - edge) <= near), round(end)) for end in ends)
        scale.append((stop - start) / placement.inner[axis])
        offset.append(float(start))
    return dataclasses.replace(placement, scale=(scale[0], scale[1]), offset=(offset[0], offset[1]))


def _error(placement: Placement, each: Sequence[Tensor], norms: Tensor, cuts: Sequence[Tensor], cell: Grid) -> float:
    """How far from its place by `placement` what arrives lies, in pixels of the outer image (root mean square).

    Only what shows a part of the image counts, and not what padding repeats of it.
    """
    apart, inside = torch.zeros_like(norms), norms > _RESPONDS * norms.mean()
    for outer in (0, 1):
        inner = 1 - outer if placement.transposed else outer
        low, high = _extent(norms.shape[inner], placement.scale[inner] * cell[inner], placement.offset[inner], inner)
        side = placement.outer[outer]
        displaced = _displaced(each[outer], norms, cuts[outer], (low, high))
        apart += (displaced * side / (len(cuts[outer]) + 1)) ** 2
        inside = inside & (low >= 0) & (high <= side)
    return float(apart[inside].mean().sqrt())


def _cuts(side: int) -> Tensor:
    """Rows or columns before which images are cut, spread over the side, but not evenly.

    Even steps could keep step with those of a resize, whose rounding would then not average out.
    """
    if side < 4:
        raise NotPlacedError(f"which is given an image of {side} pixels only, too few to see how it lies")
    count = min(_CUTS, side - 1)
    places = ((index + 0.618 * index % 1) * (side - 1) / count for index in range(count))
    return torch.tensor(sorted({1 + int(place) for place in places}))


def _products(
    arrive: Arriving, size: Grid, cuts: list[Tensor], ranges: Sequence[Range], like: Tensor
) -> tuple[Tensor, Tensor]:
    """What `_responses` gives for cuts along rows, then columns, summed over all pairs of images, each of mean norm 1.

    Raises:
        NotPlacedError: an image arrives differently from call to call, or no range of values is taken.
    """
    sides = [torch.arange(side) < places[:, None] for side, places in zip(size, cuts, strict=True)]
    first = torch.cat([sides[0][:, :, None].expand(-1, -1, size[1]), sides[1][:, None].expand(-1, size[0], -1)])
    generator = torch.Generator().manual_seed(0)
    products: Tensor | float = 0.0
    norms: Tensor | float = 0.0
    failed: NotPlacedError | None = None
    with _nothing_drawn(like.device):
        for draw, factor, shift in ranges:
            image = (draw(3, size[0] * size[1], generator=generator) * factor + shift).to(like)
            # The same pixels in another order, so that what is taken of the whole image is the same of both.
            pair = torch.stack([image, image[:, torch.randperm(image.shape[1], generator=generator)]])
            pair = pair.unflatten(-1, size)
            try:
                found, norm = _responses(arrive, pair, first)
            except NotPlacedError as error:
                if "differently" in str(error):
                    raise
                failed = error
                continue
            if (mean := norm.mean()) > 0:
                products, norms = products + found / mean, norms + norm / mean
    if isinstance(norms, Tensor) and isinstance(products, Tensor):
        return products, norms
    raise failed or NotPlacedError("which shows it nothing of the image")


def _responses(arrive: Arriving, pair: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """<C - B, D> of every cut image C, (cuts h w), and <A - B, D>, (h w), over channels.

    D is A - B less its mean over the image, so that a brightness which the cut changes as a whole takes no part.

    A and B go into every call at changing places of the batch, so that chance shows, and what depends on the batch.
    """
    products: list[Tensor] = []
    ends: Tensor | None = None
    for number, some in enumerate(first.split(_AT_ONCE)):
        mixed = torch.where(some[:, None].to(pair.device), pair[0], pair[1])
        start = number % (len(mixed) + 1)
        batch = torch.cat([mixed[:start], pair, mixed[start:]])
        came = _in_memory(arrive, batch).detach().cpu().float()
        if len(came) != len(batch):
            raise NotPlacedError(f"which gives it {len(came)} images for {len(batch)}")
        here = came[start : start + 2]
        if ends is None:
            ends = here
            apart = (ends[0] - ends[1]).nan_to_num(0.0, 0.0, 0.0)
            slope = apart - apart.mean(dim=(1, 2), keepdim=True)
        elif here.shape != ends.shape or not torch.allclose(here, ends, rtol=1e-3, atol=_noise(ends), equal_nan=True):
            raise NotPlacedError(
                "which gives it the same image differently from call to call or by its place in the batch; switch "
                "random augmentation off"
            )
        others = torch.cat([came[:start], came[start + 2 :]])
        products.append(((others - ends[1]) * slope).nan_to_num(0.0, 0.0, 0.0).sum(dim=1))
    return torch.cat(products), (apart * slope).sum(dim=0)


def _in_memory(arrive: Arriving, batch: Tensor) -> Tensor:
    """What arrives of a batch, in parts where it does not fit into memory as a whole."""
    try:
        return arrive(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    return torch.cat([_in_memory(arrive, part) for part in batch.chunk(2)])


def _noise(values: Tensor) -> float:
    """What rounding may change."""
    return 1e-3 * float(values.nan_to_num(0.0, 0.0, 0.0).abs().mean())


def _profile(products: Tensor, norms: Tensor, axis: int) -> Tensor:
    """How much is shown of A along an inner axis, (cuts places), from 0 to 1.

    Where nothing is shown it is taken from the nearest place; beyond the last one, as in padding, it is 0 or 1.

    Args:
        products, norms: as of `_responses`.
        axis: 0 for rows, 1 for columns.
    """
    other = 1 - axis
    sums = norms.sum(dim=other)
    there = (sums > _RESPONDS * sums.mean()).nonzero()[:, 0]
    places = torch.arange(len(sums))
    nearest = there[(places[:, None] - there).abs().argmin(dim=1)]
    found = (products.sum(dim=other + 1) / sums)[:, nearest]
    return torch.where((places < there[0]) | (places > there[-1]), found.round(), found)


def _affine(cuts: Tensor, profile: Tensor, cell: int) -> tuple[float, float]:
    """Scale and offset, in pixels of the outer image, of an inner axis of cells.

    Args:
        cuts: along the outer axis, (cuts).
        profile: how much places along the inner axis show of what lies before each cut, (cuts places).
        cell: pixels of the inner image in each place.
    """
    steps = profile[:, 0] - profile[:, -1]
    crossing = steps.abs() > 0.5  # the others lie beyond what is shown
    if int(crossing.sum()) < 2:
        raise NotPlacedError(
            "whose image does not run along its own from one side to the other (it is mirrored, shuffled or turned by "
            "other than quarter turns), or shows less than a tenth of it"
        )
    places = profile.shape[1]
    before = profile.sum(dim=1)
    edges = before if float(steps[crossing].mean()) > 0 else places - before
    wanted, at = cuts[crossing].double(), edges[crossing] * cell
    scale = float(((at - at.mean()) * (wanted - wanted.mean())).sum() / ((at - at.mean()) ** 2).sum().clamp_min(1e-12))
    return scale, float(wanted.mean() - scale * at.mean())


def _extent(places: int, scale: float, offset: float, axis: int) -> tuple[Tensor, Tensor]:
    """Where each place along an inner axis begins and ends on the outer image, to be spread over the other axis."""
    ends = offset + scale * torch.arange(places + 1, dtype=torch.float64)
    low, high = torch.minimum(ends[:-1], ends[1:]), torch.maximum(ends[:-1], ends[1:])
    return (low[:, None], high[:, None]) if axis == 0 else (low[None], high[None])


def _displaced(products: Tensor, norms: Tensor, cuts: Tensor, lie: tuple[Tensor, Tensor]) -> Tensor:
    """By how many cuts every place lies elsewhere than it should, mean over its surroundings, (h w).

    Args:
        products, norms: as of `_responses`.
        cuts: along the outer axis, (cuts).
        lie: where each place should begin and end.
    """
    low, high = lie
    expected = ((cuts[:, None, None] - low) / (high - low)).clamp(0, 1).sum(dim=0)
    both = torch.stack([products.sum(dim=0) - expected * norms, norms])
    around = [max(1, side // 16) // 2 for side in norms.shape]
    apart, weight = F.avg_pool2d(both, [2 * reach + 1 for reach in around], 1, around, count_include_pad=False)
    found: Tensor = apart / weight.clamp_min(1e-12)
    return found


@contextmanager
def _nothing_drawn(device: torch.device) -> Iterator[None]:
    """Put torch's, NumPy's and Python's random states back.

    Raises:
        NotPlacedError: one of them was used.
    """
    devices = [device] if device.type == "cuda" else []
    before = _random_states(devices)
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
            drawn = _random_states(devices) != before
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
    if drawn:
        raise NotPlacedError(
            "which draws random numbers before it, so that the same image arrives differently from call to call; "
            "switch random augmentation off"
        )


def _random_states(devices: list[torch.device]) -> list[object]:
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    return [*(bytes(state.tolist()) for state in states), python, repr(numpy)]
