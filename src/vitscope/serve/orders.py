"""What a job is asked for, checked against the model before it waits; and which orders one pass can answer together."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

from vitscope.errors import MethodError, TargetError
from vitscope.explainer import Explainer
from vitscope.images import Batch
from vitscope.methods import Chosen, choose, list_methods
from vitscope.methods.registry import split_methods
from vitscope.outcome import refuse
from vitscope.serve.limits import Limits
from vitscope.targets import Class, Concept, Contrast, Predicted, Probability, Target

DEFAULT = ("daam", "agcam", "cdam")
"""The methods where none is named, as far as they are defined for the model."""

WORDS = 500
"""Characters of a target in words."""

_LARGE = 2**31


@dataclass(frozen=True)
class Question:
    """What is asked of the pictures of a job.

    Attributes:
        methods: in words.
        chosen: the same, read.
        aim: the target; None until the concept's features are known.
    """

    methods: str
    chosen: Chosen
    aim: Target | None

    @property
    def deaf(self) -> bool:
        """Whether a class-agnostic method may refuse the target, by the picture."""
        agnostic = any(not method.facts.class_specific for method in self.chosen.methods.values())
        return agnostic and not isinstance(self.aim, Predicted)


@dataclass(frozen=True, eq=False)
class Order:
    """A job's pictures, and what is asked of them.

    Attributes:
        model: the name under which it is loaded.
        batch: the pictures.
        question: methods and target.
        concept: the pictures that show the concept, (n 3 H W), where that is the target.
        lens: whether the evidence of every class is wanted too.
    """

    model: str
    batch: Batch
    question: Question
    concept: Tensor | None = None
    lens: bool = True

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def kind(self) -> Hashable:
        """The same for orders that can be answered by one call of the explainer; None for one that goes alone."""
        aim = self.question.aim
        if aim is None or self.question.deaf:
            return None
        kinds: dict[type, Hashable] = {Predicted: "predicted", Class: "class", Probability: "probability"}
        same = aim if isinstance(aim, Contrast) else kinds.get(type(aim))
        return (
            None if same is None else (self.model, self.question.methods, self.lens, self.batch.tensor.shape[1:], same)
        )

    def at(self, image: int) -> Order:
        """The same of one of its pictures."""
        return dataclasses.replace(self, batch=self.batch.part(slice(image, image + 1)))


def question_of(explainer: Explainer, methods: str, target: str, concept: bool, limits: Limits) -> Question:
    """Read methods and target, and hold them against the model.

    Args:
        explainer: of the model.
        methods: names with commas between; "" for the default ones.
        target: in words; "" for the predicted class, or the concept.
        concept: whether pictures show what is explained.
        limits: of the methods' number and samples.

    Raises:
        VitscopeError: an unknown method, option or class; too much asked; or nothing that is defined for the model.
    """
    named = ",".join(split_methods(methods)) or default_methods(explainer)
    chosen = choose(named).within(limits.max_forwards)
    if len(chosen.methods) > limits.methods:
        raise MethodError(f"{len(chosen.methods)} methods; name {limits.methods} at most")
    _check_options(chosen, limits.max_forwards)
    words = target.strip()
    if len(words) > WORDS:
        raise TargetError(f"a target of {len(words)} characters; say it in {WORDS} at most")
    if words and concept:
        raise TargetError(f"'{words}' and pictures of a concept are two targets; give one of them")
    aim = None if concept else explainer.target(words or None)
    if isinstance(aim, Class | Contrast) and explainer.anatomy.outputs:
        aim.check(explainer.anatomy.outputs)
    if isinstance(aim, Predicted) and not explainer.anatomy.outputs:
        _check_headless(explainer, chosen)
    refuse(explainer.anatomy, chosen, [aim] if aim else [], strict=False)
    return Question(named, chosen, aim)


def default_methods(explainer: Explainer) -> str:
    """`DEFAULT`, as far as they are defined for the model; else the first one that is."""
    defined = [
        facts.name
        for facts in list_methods()
        if not any(explainer.why_not(label, method) for label, method in choose(facts.name).methods.items())
    ]
    return ",".join([name for name in DEFAULT if name in defined] or defined[:1])


def concept_of(explainer: Explainer, order: Order) -> Order:
    """The order with its concept as the target.

    Raises:
        VitscopeError: the model gives no features of the concept's pictures.
    """
    if order.concept is None:
        return order
    count = len(order.concept)
    features = explainer.features(order.concept)
    aim = Concept(features, name=f"the concept of {count} picture{'' if count == 1 else 's'}")
    return dataclasses.replace(order, concept=None, question=dataclasses.replace(order.question, aim=aim))


def together(orders: list[Order]) -> Target:
    """The one target that puts to each picture what its own order asks; of orders of one kind."""
    first = orders[0].question.aim
    assert first is not None
    if not isinstance(first, Class) or len(orders) == 1:
        return first
    indices: list[int] = []
    for order in orders:
        aim = order.question.aim
        assert isinstance(aim, Class)
        assert isinstance(aim.index, int)
        indices += [aim.index] * len(order)
    return dataclasses.replace(first, index=tuple(indices))


def _check_headless(explainer: Explainer, chosen: Chosen) -> None:
    """Raise TargetError where a method that was named needs a class and the model predicts none."""
    for label, method in chosen.methods.items():
        if method.facts.class_specific and label not in chosen.grouped:
            other = "a text as the target, or " if explainer.anatomy.texts else ""
            raise TargetError(
                f"{label} explains a target, and this model predicts no class; give {other}pictures of a concept"
            )


def _check_options(chosen: Chosen, most: int) -> None:
    """Raise MethodError where an option asks for more samples, or the like, than the server gives."""
    for label, method in chosen.methods.items():
        for field in dataclasses.fields(method):  # type: ignore[arg-type]
            value = getattr(method, field.name)
            if not isinstance(value, int) or isinstance(value, bool):
                continue
            default = field.default if isinstance(field.default, int) else 0
            bound = _LARGE if field.name == "seed" else max(most, default)
            if abs(value) > bound:
                raise MethodError(f"{label}: {field.name} can be {bound} here at most; give less, or leave it out")
