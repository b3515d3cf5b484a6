"""What a method is: facts, options, needs, and one pure function of the trace."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from vitscope.defaults import Family
from vitscope.methods.survival import failure
from vitscope.trace import Needs, Trace


@dataclass(frozen=True)
class Facts:
    """What is known of a method before it runs.

    Attributes:
        name: the name that users type.
        title: the name in full.
        family: the kind of method.
        paper: where it comes from.
        year: of its publication.
        signed: whether negative values mean evidence against the target.
        class_specific: whether the map depends on the target.
        cost: forwards of the same model that it costs by itself, a number first: benchmarks/cost.py, ViT-Ti/16,
            batch 8, CPU; for a perturbation method their exact number there, by default.
        caution: one sentence on what its map does not say.
        of_tokens: whether it follows patch tokens from block to block, which class attention leaves as they are.
        of_rows: whether it follows rows of tokens from the blocks to the output, which windowed models have not.
        divides: whether it divides by sums that may nearly cancel, so that half precision gives another map.
        any_network: whether it is also defined for a `Recording` of any network.
        chained: whether it multiplies attention from each call to the next, over one sequence of tokens.
    """

    name: str
    title: str
    family: Family
    paper: str
    year: int
    signed: bool
    class_specific: bool
    cost: str
    caution: str
    of_tokens: bool = False
    of_rows: bool = True
    divides: bool = False
    any_network: bool = False
    chained: bool = False

    @property
    def trivial(self) -> bool:
        """Whether it knows nothing of the model, as a baseline."""
        return self.family == "trivial"

    @property
    def failure(self) -> str:
        """That it fails the sanity check, with the numbers, or ""."""
        return failure(self.name)

    @property
    def cautions(self) -> list[str]:
        """What a reader of its map must know, in short sentences, the gravest first."""
        if self.trivial:
            return ["Knows nothing of the model: a baseline.", self.caution]
        kinds = [self.failure] if self.failure else []
        if not self.class_specific:
            kinds.append("The same map for every class.")
        if not self.signed:
            kinds.append("Unsigned: shows no evidence against the target.")
        return [*kinds, self.caution]

    @property
    def forwards(self) -> float:
        """`cost` as a number, the largest one in it; infinite where it holds none."""
        numbers = re.findall(r"\d+(?:[ _,]\d{3})*(?:\.\d+)?", self.cost)
        return max((float(re.sub(r"[ _,]", "", number)) for number in numbers), default=math.inf)


@dataclass(frozen=True)
class Maps:
    """A method's result on the patch grid, raw. Axis m: the targets; a class-agnostic method's maps have none.

    Attributes:
        values: (b m rows cols).
        blocks: each block's own map, (b m blocks rows cols), where the method has one a block.
        heads: each head's own map, (b m heads rows cols), where the method has one a head.
    """

    values: Tensor
    blocks: Tensor | None = None
    heads: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Maps:
        """The same with every tensor changed."""
        blocks, heads = (None if part is None else change(part) for part in (self.blocks, self.heads))
        return Maps(change(self.values), blocks, heads)


class Method(Protocol):
    """A frozen dataclass whose fields are the method's options."""

    facts: ClassVar[Facts]

    @property
    def needs(self) -> Needs:
        """What the trace must record."""
        ...

    def __call__(self, trace: Trace) -> Maps:
        """The maps of every image of the trace."""
        ...
