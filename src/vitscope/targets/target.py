"""Targets: the predicted class, given classes, or any function of the model's output."""

from __future__ import annotations

import logging
import operator
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from vitscope.activation import Activation, activated
from vitscope.errors import TargetError
from vitscope.targets.names import UNNAMED, ClassNames
from vitscope.targets.text import Text

_LOG = logging.getLogger(__name__)
_NUMBER = re.compile(r"-?\d{1,18}")
"""An index in words; "²" is a digit to Python and no number."""


@runtime_checkable
class Target(Protocol):
    """What is explained."""

    @property
    def of_features(self) -> bool:
        """Whether `score` reads the features (b F), which the classifier reads, and not the output (b c)."""
        ...

    @property
    def linear(self) -> bool:
        """Whether its gradient is the same at altered tokens: so of a class's logit, not of a probability."""
        ...

    def score(self, output: Tensor, /) -> Tensor:
        """From the model's output (b c), or its features (b F), with their graph, to a value an image (b)."""
        ...

    def classes(self, output: Tensor) -> Tensor | None:
        """The explained class of every image (b), or None where the target is no class."""
        ...

    def describe(self, names: ClassNames = UNNAMED) -> str:
        """A short text for people and manifests, with the classes' names where they are known."""
        ...


@dataclass(frozen=True)
class Predicted:
    """The class with the highest logit, image by image."""

    of_features: ClassVar[bool] = False
    linear: ClassVar[bool] = True  # the class stays that of the unaltered picture

    def score(self, output: Tensor) -> Tensor:
        """The highest logit of every image, (b)."""
        return _pick(output, self.classes(output))

    def classes(self, output: Tensor) -> Tensor:
        """The predicted classes, (b)."""
        return output.detach().argmax(dim=1)

    def describe(self, names: ClassNames = UNNAMED) -> str:
        """The target in words."""
        return "the predicted class"


@dataclass(frozen=True)
class Class:
    """The logit of a class: one index for all images, or one an image; NumPy's and torch's integers are taken too.

    Raises:
        TargetError: an index that is no integer.
    """

    of_features: ClassVar[bool] = False
    linear: ClassVar[bool] = True
    index: int | tuple[int, ...]

    def __post_init__(self) -> None:
        index: Any = self.index.tolist() if isinstance(self.index, Tensor | np.ndarray) else self.index
        many = isinstance(index, Sequence) and not isinstance(index, str)
        _set(self, "index", tuple(map(_whole, index)) if many else _whole(index))

    def score(self, output: Tensor) -> Tensor:
        """The class's logit of every image, (b)."""
        return _pick(output, self.classes(output))

    def classes(self, output: Tensor) -> Tensor:
        """The asked classes, (b).

        Raises:
            TargetError: an index that the model's output does not have, or another number of indices than images.
        """
        indices = [self.index] * len(output) if isinstance(self.index, int) else list(self.index)
        if len(indices) != len(output):
            raise TargetError(f"{len(indices)} targets for {len(output)} images; give one target, or one an image")
        self.check(output.shape[1])
        return torch.tensor(indices, device=output.device)

    def check(self, outputs: int) -> None:
        """Raise TargetError where an index lies outside a model's `outputs`."""
        for index in (self.index,) if isinstance(self.index, int) else self.index:
            if not 0 <= index < outputs:
                raise TargetError(f"class {index} is out of range: the model has outputs 0 to {outputs - 1}")

    def describe(self, names: ClassNames = UNNAMED) -> str:
        """The target in words."""
        indices = [self.index] if isinstance(self.index, int) else self.index
        if names:
            return ", ".join(names[index] for index in indices)
        return f"class{'' if len(indices) == 1 else 'es'} {', '.join(map(str, indices))}"


@dataclass(frozen=True)
class Probability(Class):
    """The probability of a class: one index for all images, or one an image.

    Its gradient is small near 0 or 1: that of a softmax is p (1 - p) times the logit's less the other classes' share,
    which speaks against the other classes as much as for this one; that of a sigmoid is p (1 - p) times the logit's.

    Attributes:
        activation: what turns outputs into probabilities; None for the model's own, which an Explainer fills in.
    """

    linear: ClassVar[bool] = False
    activation: Activation | None = None

    def score(self, output: Tensor) -> Tensor:
        """The class's probability in every image, (b); by softmax where no model has filled the activation in."""
        return _pick(activated(output, self.activation or "softmax"), self.classes(output))

    def describe(self, names: ClassNames = UNNAMED) -> str:
        """The target in words."""
        return f"the probability of {super().describe(names)}"


@dataclass(frozen=True)
class Contrast:
    """The difference of two classes' logits: what speaks for the first rather than the second.

    Example:
        >>> Contrast(0, 2).score(torch.tensor([[3.0, 0.0, 1.0]]))
        tensor([2.])
    """

    of_features: ClassVar[bool] = False
    linear: ClassVar[bool] = True
    first: int
    second: int

    def __post_init__(self) -> None:
        _set(self, "first", _whole(self.first))
        _set(self, "second", _whole(self.second))

    def score(self, output: Tensor) -> Tensor:
        """The difference in every image, (b)."""
        self.check(output.shape[1])
        return output[:, self.first] - output[:, self.second]

    def classes(self, output: Tensor) -> None:
        """None: it is no class."""
        return

    def check(self, outputs: int) -> None:
        """Raise TargetError where a class lies outside a model's `outputs`."""
        Class((self.first, self.second)).check(outputs)

    def describe(self, names: ClassNames = UNNAMED) -> str:
        """The target in words."""
        return f"{Class(self.first).describe(names)} rather than {Class(self.second).describe(names)}"


@dataclass(frozen=True)
class Output:
    """One output of a regression or a multi-label head, which is no class among others."""

    of_features: ClassVar[bool] = False
    linear: ClassVar[bool] = True
    index: int

    def __post_init__(self) -> None:
        _set(self, "index", _whole(self.index))

    def score(self, output: Tensor) -> Tensor:
        """The output in every image, (b)."""
        Class(self.index).check(output.shape[1])
        return output[:, self.index]

    def classes(self, output: Tensor) -> None:
        """None: it is no class."""
        return

    def describe(self, names: ClassNames = UNNAMED) -> str:
        """The target in words."""
        return names[self.index]


@dataclass(frozen=True)
class Custom:
    """Any differentiable function of the model's output (b c), or of its features (b F), that gives (b)."""

    linear: ClassVar[bool] = False
    function: Callable[[Tensor], Tensor]
    of_features: bool = False

    def score(self, output: Tensor) -> Tensor:
        """The function's value of every image, (b)."""
        return self.function(output)

    def classes(self, output: Tensor) -> None:
        """None: it is no class."""
        return

    def describe(self, names: ClassNames = UNNAMED) -> str:
        """The target in words."""
        return f"the function {getattr(self.function, '__name__', type(self.function).__name__)}"


TargetLike = (
    None
    | int
    | str
    | Sequence[int | str | Text]
    | Tensor
    | np.ndarray[Any, Any]
    | Target
    | Text
    | Callable[[Tensor], Tensor]
)


def as_target(target: TargetLike, names: ClassNames) -> Target:
    """The target that a user's words mean: None, an index, a class name, one of these an image, or a callable.

    In words, "cat rather than dog" weighs two classes (`Contrast`), and "probability of cat" is a `Probability`.

    Raises:
        TargetError: an unknown class name, or a form that is not understood.
    """
    if target is None:
        return Predicted()
    if isinstance(target, Target):
        return target
    if callable(target):
        return Custom(target)
    if isinstance(target, str):
        return _in_words(target, names)
    if isinstance(target, Tensor | np.ndarray | np.generic):
        target = target.tolist()
    if isinstance(target, Sequence):
        return Class(tuple(_class_index(entry, names) for entry in target))
    return Class(_class_index(target, names))


def _in_words(text: str, names: ClassNames) -> Target:
    first, rather, second = text.partition(" rather than ")
    if rather:
        return Contrast(_class_index(first.strip(), names), _class_index(second.strip(), names))
    label = text.strip().removeprefix("probability of ")
    return (Class if label == text.strip() else Probability)(_class_index(label, names))


def _class_index(entry: int | str | Text, names: ClassNames) -> int:
    if isinstance(entry, Text):
        raise TargetError(f"'{entry}': the model has no text tower; give a class, or use a CLIP-like model")
    if isinstance(entry, str):
        return _index_in_words(entry.strip(), names) if _NUMBER.fullmatch(entry.strip()) else names.index(entry)
    try:
        return _whole(entry)
    except TargetError:
        raise TargetError(
            f"{entry!r} is no target; give a class index, a class name, one an image, or a function"
        ) from None


def _index_in_words(number: str, names: ClassNames) -> int:
    """A number as an index; where it is also the name of another class, a warning says which one is taken."""
    index = int(number)
    if number in names.names and (called := names.names.index(number)) != index:
        _LOG.warning(
            "'%s' is read as an index, that of %s; the class of this name has index %d", number, names[index], called
        )
    return index


def _whole(index: Any) -> int:
    """An index of any integer type.

    Raises:
        TargetError: it is none.
    """
    if not isinstance(index, bool):
        with suppress(TypeError):
            return operator.index(index)
    raise TargetError(f"{index!r} is no class index; give an integer, or the class's name in place of the target")


def _set(target: object, field: str, value: Any) -> None:
    """Put a field of a frozen dataclass in its one form, while it is made."""
    object.__setattr__(target, field, value)


def _pick(output: Tensor, classes: Tensor) -> Tensor:
    return output.gather(1, classes[:, None])[:, 0]
