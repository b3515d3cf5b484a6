"""pytorch-grad-cam's targets, functions of one image's output, as a target of vitscope."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from vitscope.errors import TargetError
from vitscope.targets import Class, ClassNames, Probability, Target
from vitscope.targets.names import UNNAMED

RowTarget = Callable[[Tensor], Tensor]
"""One image's output (c) -> one number."""


@dataclass(frozen=True)
class EachRow:
    """A function of its own for every image's output, as pytorch-grad-cam's targets are; a vitscope `Target`."""

    of_features: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    functions: tuple[RowTarget, ...]

    def score(self, output: Tensor) -> Tensor:
        """Each function of its row of the output (b c), (b).

        Raises:
            TargetError: another number of functions than images, or one that does not give one number.
        """
        if len(self.functions) != len(output):
            raise TargetError(f"{len(self.functions)} targets for {len(output)} images; give one an image")
        values = [function(row) for function, row in zip(self.functions, output, strict=True)]
        for index, value in enumerate(values):
            if not isinstance(value, Tensor) or value.numel() != 1:
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise TargetError(f"the target of image {index} gives {shape}; give a function that gives one number")
        return torch.stack([value.reshape(()) for value in values])

    def classes(self, output: Tensor) -> None:
        """None: it is no class."""
        return

    def describe(self, names: ClassNames = UNNAMED) -> str:
        """The target in words."""
        kinds = dict.fromkeys(getattr(one, "__name__", type(one).__name__) for one in self.functions)
        return f"the function {' or '.join(kinds)} of each image's output"


def of_rows(targets: Sequence[RowTarget]) -> Target:
    """The classes or probabilities that the library's own objects name, or else a function for each image.

    Raises:
        TargetError: it is no list of functions.
    """
    if callable(targets) or not isinstance(targets, Sequence) or not all(callable(target) for target in targets):
        raise TargetError("targets takes a list of functions, one an image: [ClassifierOutputTarget(281)], or None")
    library = sys.modules.get("pytorch_grad_cam.utils.model_targets")
    kinds: dict[str, Callable[[tuple[int, ...]], Target]] = {
        "ClassifierOutputTarget": Class,
        "ClassifierOutputSoftmaxTarget": partial(Probability, activation="softmax"),
    }
    for name, kind in kinds.items():
        theirs = getattr(library, name, None)
        if targets and all(type(target) is theirs for target in targets):
            return kind(tuple(int(target.category) for target in targets))  # type: ignore[attr-defined]
    return EachRow(tuple(targets))
