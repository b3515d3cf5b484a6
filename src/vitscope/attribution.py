"""The results: raw maps with all that is needed to read, draw and repeat them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitscope.activation import Activation, activated
from vitscope.errors import MethodError, nearest
from vitscope.images import Batch, Geometry
from vitscope.methods import Facts
from vitscope.targets import ClassNames

if TYPE_CHECKING:
    from vitscope.evidence import Evidence


@dataclass(frozen=True)
class Subject:
    """What was explained: shared by all methods of one pass.

    Attributes:
        batch: the images.
        geometries: where the patch grid lies on each original image.
        logits: the model's output, (b c): of a model without a classifier its features.
        classifier: whether the outputs are classes.
        target: the explained class of every image, (b); None where the target is no class.
        asked: the target in words.
        each_asked: the same of every image, where each has a text of its own; otherwise empty.
        names: names of the outputs.
        provenance: versions, model, preprocessing, ready for JSON.
    """

    batch: Batch
    geometries: tuple[Geometry, ...]
    logits: Tensor
    classifier: bool
    target: Tensor | None
    asked: str
    names: ClassNames
    provenance: Mapping[str, Any]
    each_asked: tuple[str, ...] = ()

    @property
    def activation(self) -> Activation:
        """What turns the outputs into probabilities: "softmax", "sigmoid", or "none" where they have none."""
        activation: Activation = self.provenance["activation"]
        return activation

    def asked_of(self, image: int) -> str:
        """The target of one image in words."""
        return self.each_asked[image] if self.each_asked else self.asked

    def __len__(self) -> int:
        return len(self.batch)

    def __repr__(self) -> str:
        return f"Subject({self.line()})"

    def line(self) -> str:
        """How many images, on what grid, for what target, by which model: without any numbers of theirs."""
        model = self.provenance["model"]
        name = Path(model["model"]).name if model["model"] else model["name"]
        grid = " x ".join(map(str, self.provenance["grid"]))
        images = f"{len(self)} image" if len(self) == 1 else f"{len(self)} images"
        asked = shorten(self.asked, 60, placeholder=" ...")
        return f"{images}, {grid} patches, target: {asked}, model: {name}"

    def class_of(self, image: int) -> dict[str, Any] | None:
        """Index, name, logit and probability of the explained class of one image; None for another target.

        The probability is None where the activation is "none", as of a regression.
        """
        return None if self.target is None else self._class(image, int(self.target[image]))

    def prediction(self, image: int) -> dict[str, Any] | None:
        """The same of the class with the highest logit; None without a classifier."""
        return None if not self.classifier else self._class(image, int(self.logits[image].argmax()))

    def _class(self, image: int, index: int) -> dict[str, Any]:
        row = self.logits[image].detach().cpu().double()
        likely = activated(row[None], self.activation)[0]
        return {
            "index": index,
            "name": self.names[index],
            "logit": float(row[index]),
            "probability": None if self.activation == "none" else float(likely[index]),
        }

    def title(self, image: int) -> str:
        """One line: what the model predicts and, where it is something else, what was explained."""
        predicted, asked = self.prediction(image), self.class_of(image)
        if predicted is None:
            return f"no classifier — explained: {self.asked_of(image)}"
        several_values = self.activation == "none" and self.logits.shape[1] > 1
        line = f"{'highest output' if several_values else 'predicted'}: {class_line(predicted, '.2f')}"
        if asked is None:
            return f"{line} — explained: {self.asked_of(image)}"
        if asked["index"] == predicted["index"]:
            return line
        return f"{line} — explained: {class_line(asked, '.2g')}"


@dataclass(frozen=True)
class Attribution:
    """One method's maps for a batch of images; raw values, never normalised or clipped.

    Example:
        >>> from vitscope import Explainer
        >>> from vitscope.datasets import Scenes
        >>> daam = Explainer("scenes")([Scenes(1, seed=7)[0].image], "daam")["daam"]
        >>> daam
        Attribution(daam (1, 12, 12) in 12 blocks, 1 image, 12 x 12 patches, target: the predicted class, model: scenes)
        >>> daam.to_pixels().shape, daam.signed
        (torch.Size([1, 96, 96]), False)

    Attributes:
        label: the method with its options, as the user named it.
        facts: what is known of the method: paper, signed, class-specific, ...
        options: the method's options with their values.
        values: (b rows cols) float32, signed where the method is.
        blocks: each block's own map, (b blocks rows cols) float32, or None.
        heads: each head's own map, (b heads rows cols) float32, or None.
        subject: what was explained.
    """

    label: str
    facts: Facts
    options: Mapping[str, Any]
    values: Tensor
    blocks: Tensor | None
    heads: Tensor | None
    subject: Subject

    @property
    def signed(self) -> bool:
        """Whether negative values are evidence against the target."""
        return self.facts.signed

    @property
    def flow(self) -> Tensor | None:
        """The map accumulated over blocks, (b blocks rows cols): entry i is what blocks 0..i gave; or None."""
        return None if self.blocks is None else self.blocks.cumsum(dim=1)

    @property
    def provenance(self) -> dict[str, Any]:
        """Versions, model, preprocessing, target, method and options, ready for JSON."""
        method = {
            "label": self.label,
            "name": self.facts.name,
            "paper": self.facts.paper,
            "options": dict(self.options),
        }
        return {**self.subject.provenance, "target": self.subject.asked, "method": method}

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        blocks = "" if self.blocks is None else f" in {self.blocks.shape[1]} blocks"
        return f"Attribution({self.label} {tuple(self.values.shape)}{blocks}, {self.subject.line()})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the page of this method alone."""
        return Explanation(self.subject, {self.label: self}, {})._repr_html_()

    def to_pixels(self, mode: Literal["bilinear", "nearest"] = "bilinear") -> Tensor | list[Tensor]:
        """The maps on the pixels of the ORIGINAL images, NaN where the model's crop cut the image off.

        Args:
            mode: "bilinear" interpolates between patch centres; "nearest" shows the patches as they are.

        Returns:
            (b H W) float32 where all images have one size, else a list with an (H W) map an image.
        """
        _need_planes(self)
        maps = [g.to_original(m, mode=mode) for g, m in zip(self.subject.geometries, self.values, strict=True)]
        return torch.stack(maps) if len({m.shape for m in maps}) == 1 else maps

    def save(
        self, folder: str | os.PathLike[str], video: str | Iterable[str] = (), overwrite: bool = False
    ) -> list[str]:
        """Write this method's part of `Explanation.save`: values, overlays, evolution, manifest, a folder an image."""
        return Explanation(self.subject, {self.label: self}, {}).save(folder, video, overwrite)


@dataclass(frozen=True)
class Explanation:
    """What `Explainer` gives: every method's attribution of one batch, from one pass.

    Iterating gives the methods' labels and an index takes one; `len` is the number of images, as of an Attribution.

    Example:
        >>> from vitscope import Explainer
        >>> from vitscope.datasets import Scenes
        >>> ex = Explainer("scenes")([scene.image for scene in Scenes(2, seed=7)], "daam,cdam")
        >>> list(ex), ex.logits.shape
        (['daam', 'cdam'], torch.Size([2, 12]))
        >>> ex["cdam"].signed
        True

    Attributes:
        subject: what was explained.
        attributions: label -> Attribution, in the order asked for.
        failures: label -> why there is none; with `strict`, of methods that a group brought in alone.
        left_out: those of `failures` that a group brought in and that are not defined for the model or the target.
        output: the model's raw output, where it was explained without a description; otherwise None.
    """

    subject: Subject
    attributions: Mapping[str, Attribution]
    failures: Mapping[str, str]
    left_out: frozenset[str] = frozenset()
    output: Any = None

    @property
    def logits(self) -> Tensor:
        """The model's output, (b c)."""
        return self.subject.logits

    @property
    def target(self) -> Tensor | None:
        """The explained class of every image, (b); None where the target is no class."""
        return self.subject.target

    def __getitem__(self, label: str) -> Attribution:
        if label in self.attributions:
            return self.attributions[label]
        if label in self.failures:
            raise MethodError(self.failures[label])
        there = ", ".join(self.attributions) or "none"
        raise MethodError(f"'{label}' was not asked for{nearest(label, self.attributions)}; there is {there}")

    def __iter__(self) -> Iterator[str]:
        """The labels of the methods that have maps, as of a dict; `len` counts the images."""
        return iter(self.attributions)

    def __len__(self) -> int:
        """How many images were explained; the methods are `len(explanation.attributions)`."""
        return len(self.subject)

    def __repr__(self) -> str:
        failed = f", without {_some(self.failures)}" if self.failures else ""
        return f"Explanation({_some(self.attributions) or 'no map'}{failed}: {self.subject.line()})"

    def joined(self, other: Explanation, order: Iterable[str]) -> Explanation:
        """This and another of the same images and target by other methods, in this order."""
        attributions = {**self.attributions, **other.attributions}
        return Explanation(
            self.subject,
            {label: attributions[label] for label in order if label in attributions},
            {**self.failures, **other.failures},
            self.left_out | other.left_out,
            other.output if self.output is None else self.output,
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: the report, in a frame."""
        from vitscope.report.notebook import explanation_frame  # here, since pages lie behind results

        return explanation_frame(self)

    def html(self, evidence: Evidence | None = None) -> str:
        """The report as one self-contained page; a notebook shows it where it is a cell's last line.

        Args:
            evidence: `explainer.evidence` of the same images, for the class lens.

        Raises:
            ImageError: the evidence is of other images.
            ModelError: the evidence is of another model.
        """
        from vitscope.report.notebook import explanation_page

        return explanation_page(self, evidence)

    def save(
        self, folder: str | os.PathLike[str], video: str | Iterable[str] = (), overwrite: bool = False
    ) -> list[str]:
        """Write a folder an image: an overlay a method, evolution, sheet, `values.npz` and `manifest.json`.

        Methods that were saved there before of the same image, model, preprocessing and target stay, and all files then
        hold both.

        Args:
            folder: made where it is missing.
            video: the evolution also as "gif", "mp4" or "webm" (the last two need the extra `video`).
            overwrite: replace what was saved there of these images, whatever it is.

        Returns:
            The folders, one an image.

        Raises:
            VitscopeError: the folder cannot be written or holds something else of these images, or a video cannot be
                made here.
        """
        for attribution in self.attributions.values():
            _need_planes(attribution)
        from vitscope.save import save_explanation  # here, since pictures lie behind results

        return [str(path) for path in save_explanation(self, folder, video=video, overwrite=overwrite)]


def _need_planes(attribution: Attribution) -> None:
    """Raise MethodError where maps have more axes than rows and columns."""
    if attribution.values.ndim != 3:
        raise MethodError(
            f"the {attribution.label} maps of shape {tuple(attribution.values.shape)} have no single plane to draw; "
            "take .values, such as .values[:, 0] of the first frame"
        )


def class_line(entry: Mapping[str, Any], precision: str) -> str:
    """A class as `Subject.prediction` gives it, with its probability, or its output where it has none."""
    shown = "= {logit:.3g}" if entry["probability"] is None else f"· p = {{probability:{precision}}}"
    return f"{{name}} ({{index}}) {shown}".format(**entry)


def _some(labels: Iterable[str], most: int = 6) -> str:
    """The first of many labels, and how many more there are."""
    every = list(labels)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def by_reason(failures: Mapping[str, str]) -> dict[str, list[str]]:
    """Reason -> the labels that it keeps out, the reason without the label at its beginning: "is not defined for"."""
    gathered: dict[str, list[str]] = {}
    for label, reason in failures.items():
        gathered.setdefault(reason.removeprefix(f"{label} "), []).append(label)
    return gathered


def line_of(labels: Iterable[str], reason: str) -> str:
    """One line for labels that share a reason, as `by_reason` gives it."""
    return f"left out: {', '.join(labels)}; {'each ' if reason.startswith('is ') else ''}{reason}"


def shares_of(blocks: NDArray[Any]) -> NDArray[Any]:
    """Each block's share of the accumulated evidence, (... blocks), of (... blocks rows cols); NaN of zeros."""
    mass = np.abs(blocks).sum(axis=(-2, -1))
    with np.errstate(invalid="ignore"):
        shares: NDArray[Any] = mass / mass.sum(axis=-1, keepdims=True)
    return shares


def half_of(share: NDArray[Any]) -> NDArray[Any]:
    """How many blocks it takes until half of the evidence is there, (...), with fractions; `share`: (... blocks)."""
    reached = share.cumsum(axis=-1)
    index = np.minimum((reached < 0.5).sum(axis=-1, keepdims=True), share.shape[-1] - 1)
    before = np.where(index > 0, np.take_along_axis(reached, np.maximum(index - 1, 0), -1), 0)
    half: NDArray[Any] = (index + (0.5 - before) / np.take_along_axis(share, index, -1))[..., 0]
    return half
