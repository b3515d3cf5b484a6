"""All methods' maps of a batch from one trace, where one picture's failure is its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from vitscope.explainer import Explainer
from vitscope.images import Batch
from vitscope.methods import Method
from vitscope.metrics import Asked, Pictures, asked_class
from vitscope.models import Anatomy
from vitscope.targets import ClassNames, Predicted
from vitscope.targets.names import UNNAMED


class Question(Protocol):
    """A target of a class a picture, that can be put to one picture of the batch alone."""

    def at(self, image: int) -> Question:
        """The same, of one picture."""
        ...

    def classes(self, output: Tensor) -> Tensor:
        """The classes (b)."""
        ...


def _logits(output: Tensor, classes: Tensor) -> Tensor:
    """A class's logit of every picture, (b)."""
    return output.gather(1, classes[:, None])[:, 0]


@dataclass(frozen=True)
class Given:
    """These classes; the predicted one where none is known.

    Attributes:
        indices: one a picture.
    """

    of_features: ClassVar[bool] = False
    linear: ClassVar[bool] = True
    indices: tuple[int | None, ...]

    def at(self, image: int) -> Given:
        """The same, of one picture."""
        return Given((self.indices[image],))

    def classes(self, output: Tensor) -> Tensor:
        """The classes (b)."""
        predicted = output.detach().argmax(dim=1).tolist()
        found = [top if index is None else index for index, top in zip(self.indices, predicted, strict=True)]
        return torch.tensor(found, device=output.device)

    def score(self, output: Tensor) -> Tensor:
        """The logit of each, (b)."""
        return _logits(output, self.classes(output))

    def describe(self, names: ClassNames = UNNAMED) -> str:
        """The target in words."""
        return "a class a picture"


@dataclass(frozen=True)
class InOrder:
    """The class that a metric asks for by the model's output: "predicted", "second", "random".

    Attributes:
        which: see `Asked`.
        keys: of the pictures.
    """

    of_features: ClassVar[bool] = False
    linear: ClassVar[bool] = True
    which: Asked
    keys: tuple[int, ...]

    def at(self, image: int) -> InOrder:
        """The same, of one picture."""
        return InOrder(self.which, (self.keys[image],))

    def classes(self, output: Tensor) -> Tensor:
        """The classes (b)."""
        count = len(self.keys)
        known = Pictures(torch.empty(count, 3, 1, 1), (1, 1), (), (), torch.zeros(count), keys=self.keys)
        return asked_class(self.which, output.detach(), known)

    def score(self, output: Tensor) -> Tensor:
        """The logit of each, (b)."""
        return _logits(output, self.classes(output))

    def describe(self, names: ClassNames = UNNAMED) -> str:
        """The target in words."""
        return f"the {self.which} class"


@dataclass
class Found:
    """Maps of a batch for several questions.

    Attributes:
        logits: (b c), float32 or better, on the CPU.
        maps: question's place -> label -> (b rows cols) on the CPU, 0 where there is none.
        why_not: (question's place, label, picture) -> why there is none.
    """

    logits: Tensor
    maps: list[dict[str, Tensor]]
    why_not: dict[tuple[int, str, int], str] = field(default_factory=dict)

    def only(self, places: Sequence[int]) -> Found:
        """The same of some of its pictures."""
        index = torch.tensor(places)
        return Found(
            self.logits[index],
            [{label: values[index] for label, values in one.items()} for one in self.maps],
            {
                (place, label, places.index(image)): reason
                for (place, label, image), reason in self.why_not.items()
                if image in places
            },
        )


def maps_of(explainer: Explainer, methods: Mapping[str, Method], batch: Batch, questions: Sequence[Question]) -> Found:
    """One pass for all methods and questions; a method that fails on the batch is asked again picture by picture.

    A class-agnostic method has one map, that of the prediction, whatever is asked.

    Raises:
        VitscopeError: the pass itself fails.
    """
    deaf = any(not method.facts.class_specific for method in methods.values())
    asked: list[Any] = [Predicted() if _is_top(one) else one for one in questions]
    if deaf and not any(isinstance(one, Predicted) for one in asked):
        asked.append(Predicted())
    about_top = next((place for place, one in enumerate(asked) if isinstance(one, Predicted)), 0)
    explanations = explainer.each(batch, dict(methods), asked, strict=False)
    logits = explanations[0].logits.detach().cpu()
    found = Found(logits.to(torch.promote_types(logits.dtype, torch.float32)), [{} for _ in questions])
    again: dict[str, Method] = {}
    for place in range(len(questions)):
        for label, method in methods.items():
            explanation = explanations[place if method.facts.class_specific else about_top]
            if label in explanation.attributions:
                found.maps[place][label] = explanation.attributions[label].values.detach().cpu()
            elif len(batch) > 1:
                again[label] = method
            else:
                found.maps[place][label] = torch.zeros(1, *_grid(explainer.anatomy, batch))
                found.why_not[place, label, 0] = explanation.failures[label]
    if again:
        _one_by_one(explainer, again, batch, questions, found)
    return found


def _one_by_one(
    explainer: Explainer, methods: Mapping[str, Method], batch: Batch, questions: Sequence[Question], found: Found
) -> None:
    singles = [
        maps_of(explainer, methods, single(batch, image), [question.at(image) for question in questions])
        for image in range(len(batch))
    ]
    for place in range(len(questions)):
        for label in methods:
            found.maps[place][label] = torch.cat([one.maps[place][label] for one in singles])
            for image, one in enumerate(singles):
                if reason := one.why_not.get((place, label, 0)):
                    found.why_not[place, label, image] = reason


def single(batch: Batch, image: int) -> Batch:
    """One picture of a batch as a batch."""
    return batch.part(slice(image, image + 1))


def _is_top(question: Question) -> bool:
    return isinstance(question, InOrder) and question.which == "predicted"


def _grid(anatomy: Anatomy, batch: Batch) -> tuple[int, int]:
    """Rows and columns of the maps."""
    return anatomy.placement(batch.size).turned(anatomy.grid(batch.size))
