"""CDAM of every class, kept factored: what each patch does to the features, and what the classifier makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vitscope.attribution import Attribution, Subject
from vitscope.errors import TargetError
from vitscope.methods import CDAM
from vitscope.targets import Class, ClassNames


@dataclass(frozen=True)
class Opinion:
    """What one patch says of one class: its index, its name, and the signed evidence for it."""

    index: int
    name: str
    value: float


@dataclass(frozen=True, eq=False)
class Evidence:
    """The evidence of every patch for every class, signed, from one forward pass.

    Example:
        >>> from vitscope import Explainer
        >>> from vitscope.datasets import Scenes
        >>> evidence = Explainer("scenes").evidence([Scenes(1, "two", seed=7)[0].image])
        >>> evidence
        Evidence(12 classes, 1 image, 12 x 12 patches, target: every class, model: scenes)
        >>> evidence["red striped disc"].shape, evidence.contrast(0, 3).shape
        (torch.Size([1, 12, 12]), torch.Size([1, 12, 12]))

    S_c[n] = <W_c, U[n]> with U[n] = J_f(T) dT_n, the effect of patch n on the features f along its own token, and W
    the classifier: CDAM (arXiv 2312.02364) of class c, for all c. Only U and W are kept; maps are made when asked for.
    A model without an affine classifier has W = 1: its outputs are its features.

    Attributes:
        subject: what was explained; `subject.logits` is the model's output (b c).
        effects: U, (b rows cols F).
        features: f, (b F): what the classifier reads.
        weight: W, (c F), or None.
    """

    subject: Subject
    effects: Tensor
    features: Tensor
    weight: Tensor | None

    @property
    def classes(self) -> int:
        """How many outputs the model has."""
        return self.subject.logits.shape[1]

    def __len__(self) -> int:
        return len(self.effects)

    def __iter__(self) -> Iterator[Tensor]:
        """Refused, since `len` counts images and an index names a class.

        Raises:
            TypeError: always, as of what is not iterable.
        """
        raise TypeError("Evidence is not iterable; use evidence[c] for c in range(evidence.classes), or evidence.all()")

    def __repr__(self) -> str:
        return f"Evidence({self.classes} {'classes' if self.subject.classifier else 'outputs'}, {self.subject.line()})"

    def _repr_html_(self) -> str | None:
        """What a notebook shows: the class lens; None of a model without a classifier."""
        from vitscope.report.notebook import evidence_frame  # here, since pages lie behind results

        return evidence_frame(self)

    def __getitem__(self, target: int | str) -> Tensor:
        """The map of a class, by index or name, (b rows cols) float32.

        Raises:
            TargetError: the model has no such class.
        """
        return self.of(self._direction(target))

    def contrast(self, first: int | str, second: int | str) -> Tensor:
        """What speaks for `first` rather than `second`, (b rows cols) float32: the CDAM of their logits' difference."""
        return self.of(self._direction(first) - self._direction(second))

    def of(self, vector: Tensor | Sequence[float]) -> Tensor:
        """The map of any direction in feature space: a concept, a text embedding, a row of another classifier.

        Args:
            vector: (F), or one an image, (b F).

        Returns:
            (b rows cols) float32: the CDAM of <f, vector>.

        Raises:
            TargetError: a vector of another width, or another number of vectors than images.
        """
        direction = torch.as_tensor(vector).to(self.effects)
        batch, rows, cols, width = self.effects.shape
        if tuple(direction.shape) not in {(width,), (batch, width)}:
            raise TargetError(
                f"a vector of {tuple(direction.shape)} for features of width {width} of {batch} images; give "
                f"({width},), or one an image, ({batch}, {width})"
            )
        found = self.effects.flatten(1, 2) @ direction.expand(batch, width)[..., None]
        return found.view(batch, rows, cols).float()

    def all(self) -> Tensor:
        """The maps of all classes, (b c rows cols) float32."""
        batch, rows, cols, _ = self.effects.shape
        tokens = self.effects.flatten(1, 2).transpose(1, 2)  # b F n
        found = tokens if self.weight is None else self.weight @ tokens
        return found.float().view(batch, self.classes, rows, cols)

    def at(self, row: int, col: int) -> Tensor:
        """The evidence of one patch for every class, (b c) float32.

        Raises:
            TargetError: there is no such patch.
        """
        _, rows, cols, _ = self.effects.shape
        if not (0 <= row < rows and 0 <= col < cols):
            raise TargetError(
                f"patch ({row}, {col}) is not on the grid of {rows} x {cols}; rows and columns count from 0"
            )
        effect = self.effects[:, row, col]
        return (effect if self.weight is None else effect @ self.weight.T).float()

    def patch(self, row: int, col: int, k: int = 5) -> list[tuple[list[Opinion], list[Opinion]]]:
        """The k classes that a patch speaks for most, and the k that it speaks against most, for every image.

        Raises:
            TargetError: there is no such patch.
        """
        return [
            (self._opinions(scores, k, largest=True), self._opinions(scores, k, largest=False))
            for scores in self.at(row, col)
        ]

    def top(self, k: int = 5) -> tuple[Tensor, Tensor]:
        """The k classes with the highest logits of every image, (b k), falling, and their maps (b k rows cols)."""
        classes = self.subject.logits.topk(min(k, self.classes), dim=1).indices
        tokens = self.effects.flatten(1, 2)  # b n F
        batch, rows, cols, width = self.effects.shape
        weight = torch.eye(width).to(tokens) if self.weight is None else self.weight
        found = weight[classes] @ tokens.transpose(1, 2)
        return classes, found.float().view(batch, classes.shape[1], rows, cols)

    def attribution(self, target: int | str) -> Attribution:
        """One class's map as an Attribution, to bring to pixels, draw or save; without a classifier, one output's.

        Raises:
            TargetError: the model has no such class.
        """
        index = self._index(target)
        aim = torch.full((len(self),), index) if self.subject.classifier else None
        asked = replace(self.subject, target=aim, asked=Class(index).describe(self.subject.names))
        return Attribution("cdam", CDAM.facts, {}, self[index], None, None, asked)

    def _index(self, target: int | str) -> int:
        index = self.subject.names.index(target) if isinstance(target, str) else target
        if not 0 <= index < self.classes:
            raise TargetError(f"class {index} is out of range: the model has outputs 0 to {self.classes - 1}")
        return index

    def _direction(self, target: int | str) -> Tensor:
        index = self._index(target)
        return torch.eye(self.classes)[index].to(self.effects) if self.weight is None else self.weight[index]

    def _opinions(self, scores: Tensor, k: int, largest: bool) -> list[Opinion]:
        names: ClassNames = self.subject.names
        values, indices = scores.topk(min(k, len(scores)), largest=largest)
        found = zip(indices.tolist(), values.tolist(), strict=True)
        return [Opinion(index, names[index], value) for index, value in found if (value > 0) == largest]
