"""Sanity: whether a map survives the loss of the weights that it claims to explain.

for step in randomised(model, blocks): explain the same pictures, for the same classes, with step.model
Randomisation().compare(original, [maps of each step])
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from vitscope.errors import MetricError
from vitscope.metrics.base import Curve, Facts, GridMaps, Result, Whole, described
from vitscope.metrics.registry import register_metric
from vitscope.metrics.similarity import spearman, ssim

Order = Literal["cascading", "independent"]
How = Literal["normal", "permute"]


@dataclass(frozen=True)
class Step:
    """One depth of the randomisation.

    Attributes:
        name: of the layer that was randomised last: "head", a block's name, "embedding".
        parameters: names of that layer's parameters.
        model: a private copy; it changes when the next step is taken.
    """

    name: str
    parameters: tuple[str, ...]
    model: nn.Module


@register_metric
@dataclass(frozen=True)
class Randomisation:
    """Model parameter randomisation: similarity of the map with that of a model whose weights are random.

    From the head down, "cascading" through head, last block, ... first block, embedding, each left random; or
    "independent", each alone. At each depth: Spearman on the patch grid, SSIM of the maps enlarged to the input. The
    values are means over the depths, the curves each depth's, counted from 1. A map that survives, near 1, does not
    depend on what the model has learnt. Depths at which a method has no map are NaN, and left out of the mean.

    Attributes:
        order: see above.
        how: new weights: "normal", of each tensor's own mean and standard deviation, or "permute", its own values in
            another order. Which DAAM takes is unknown.
        seed: of the weights.

    Source: Adebayo et al. 2018 (1810.03292), section 3; DAAM (2503.14640), Fig. 6.
    """

    order: Order = "cascading"
    how: How = "normal"
    seed: int = 0

    facts: ClassVar[tuple[Facts, ...]] = described(
        "sanity",
        "explain",
        "none",
        "arXiv 1810.03292",
        {
            "spearman": ("Rank correlation with the map of random weights, mean over depths", False),
            "ssim": ("SSIM with the map of random weights, mean over depths", False),
        },
        limits=(-1.0, 1.0),
    )
    parameter: ClassVar[str] = ""
    whole: ClassVar[Whole] = "sanity"

    def steps(self, model: nn.Module, blocks: Sequence[str], head: Sequence[str] = ()) -> Iterator[Step]:
        """The models whose maps are to be compared; see `randomised`."""
        return randomised(model, blocks, self.order, self.how, self.seed, head)

    def compare(self, original: GridMaps, altered: Sequence[GridMaps | None]) -> Result:
        """Of one method's maps at every depth, None where it has none; curves (b depths) and their means.

        Raises:
            MetricError: no depth is given.
        """
        if not altered:
            raise MetricError("sanity: there is no depth to compare; give the maps of every step")
        depths = torch.arange(1, len(altered) + 1, dtype=torch.float64)
        none = torch.full((len(original),), torch.nan, dtype=torch.float64)
        ranks = [none if one is None else spearman(original.values, one.values) for one in altered]
        structure = [none if one is None else ssim(original.bilinear, one.bilinear) for one in altered]
        curves = {"spearman": torch.stack(ranks, dim=1), "ssim": torch.stack(structure, dim=1)}
        return Result(
            {name: curve.nanmean(dim=1) for name, curve in curves.items()},
            {name: Curve(depths, curve) for name, curve in curves.items()},
        )


def layers_of(model: nn.Module, blocks: Sequence[str], head: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """A model's parameters by layer, from the head down: "head", the blocks from last to first, "embedding".

    Args:
        model: any module.
        blocks: dotted names of its blocks, first to last, as `Anatomy.blocks` has them.
        head: beginnings of names of parameters that belong to the head. A parameter outside of all blocks is the
            head's too where it is registered after the last block's, and the embedding's otherwise.

    Raises:
        MetricError: a block has no parameters, or none is given.
    """
    if not blocks:
        raise MetricError("there is no block to randomise; sanity is for models whose blocks are known")
    names = [name for name, _ in model.named_parameters()]
    found: dict[str, list[str]] = {"head": [], **{block: [] for block in reversed(blocks)}, "embedding": []}
    owner = {name: next((b for b in blocks if name.startswith(f"{b}.")), None) for name in names}
    last = max((place for place, name in enumerate(names) if owner[name]), default=-1)
    for place, name in enumerate(names):
        outside = "head" if place > last or any(name.startswith(start) for start in head) else "embedding"
        found[owner[name] or outside].append(name)
    empty = [block for block in blocks if not found[block]]
    if empty:
        raise MetricError(f"no parameter of the model is called {empty[0]}.*; give the blocks' dotted names")
    return {layer: tuple(of_layer) for layer, of_layer in found.items() if of_layer}


def randomised(
    model: nn.Module,
    blocks: Sequence[str],
    order: Order = "cascading",
    how: How = "normal",
    seed: int = 0,
    head: Sequence[str] = (),
) -> Iterator[Step]:
    """The model with its weights randomised layer by layer, from the head down.

    The model itself is only read: all steps share one private copy, which must be used before the next is taken. A
    layer's new weights depend on seed and layer alone, so that both orders give it the same.

    Args:
        model, blocks, head: as for `layers_of`.
        order: "cascading" leaves each layer random; "independent" brings it back, exactly.
        how: see `Randomisation`. A tensor of one value all over stays as it is.
        seed: of the weights.
    """
    layers = layers_of(model, blocks, head)
    private = copy.deepcopy(model)
    theirs, ours = dict(model.named_parameters()), dict(private.named_parameters())
    for number, (layer, names) in enumerate(layers.items()):
        generator = torch.Generator().manual_seed((seed << 16) + number)
        with torch.no_grad():
            for name in names:
                ours[name].copy_(_random_like(theirs[name], how, generator))
        yield Step(layer, names, private)
        if order == "independent":
            with torch.no_grad():
                for name in names:
                    ours[name].copy_(theirs[name])


def _random_like(weights: Tensor, how: How, generator: torch.Generator) -> Tensor:
    flat = weights.detach().cpu().double().flatten()
    if how == "permute":
        made = flat[torch.randperm(len(flat), generator=generator)]
    else:
        noise = torch.randn(flat.shape, generator=generator, dtype=torch.float64)
        made = flat.mean() + flat.std(unbiased=False) * noise
    return made.view(weights.shape).to(weights)
