"""A paper's metrics with its own preprocessing, target and choice of pictures, as data; each can be overridden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vitscope.errors import MetricError, nearest
from vitscope.methods.registry import split_methods
from vitscope.metrics.base import Facts
from vitscope.metrics.registry import Chosen, as_metrics, default_names

Choice = Literal["all", "correct"]


@dataclass(frozen=True)
class Preset:
    """What a paper measured, and how; `dataclasses.replace` overrides any of it.

    Attributes:
        name: that users type.
        title: in full.
        paper: where it comes from.
        metrics: full names of the values, or groups.
        preprocessing: fields of `Preprocessing` that differ from the model's own; mean and std stay the model's.
        target: the class that is explained.
        images: "all", or the "correct" ones: misclassified pictures are left out.
        choices: what the paper leaves unknown, and what is taken here.
    """

    name: str
    title: str
    paper: str
    metrics: tuple[str, ...]
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    target: Literal["predicted", "label"] = "predicted"
    images: Choice = "all"
    choices: tuple[str, ...] = ()

    def chosen(self) -> dict[str, Chosen]:
        """The metrics by the full names of their values."""
        return as_metrics(self.metrics)

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


WHOLE = {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash"}
"""The whole photograph resized bilinearly to the input size, no crop, aspect not kept."""

_LOCALIZATION = (
    "agcam",
    "daam",
    "curve",
    "maxbox",
    "pointing",
    "energy",
    "loc",
    "segmentation",
)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "agcam",
            "AG-CAM's localization",
            "arXiv 2402.04563",
            ("agcam",),
            preprocessing=WHOLE,
            images="correct",
            choices=("rectangles are painted from x, y to x + width, y + height, both included",),
        ),
        Preset(
            "abpc",
            "AG-CAM's area between perturbation curves",
            "arXiv 2402.04563",
            ("abpc",),
            preprocessing=WHOLE,
        ),
        Preset(
            "daam",
            "DAAM's localization",
            "arXiv 2503.14640",
            ("daam", "curve", "maxbox"),
            preprocessing=WHOLE,
            images="correct",
            choices=(
                "the box is that of the largest component from 0.05 of the min-max scaled map on, its corners AG-CAM's",
                "the curve over thresholds and its area are of a map's positive part, scaled by itself",
                "preprocessing and choice of pictures as AG-CAM's",
            ),
        ),
        Preset(
            "cdam",
            "CDAM's correctness, compactness and class sensitivity",
            "arXiv 2312.02364",
            (
                *(f"mif_lif@{fill}" for fill in ("blur", "zero", "mean")),
                *(f"box_sensitivity@{fill}" for fill in ("blur", "zero")),
                "compactness",
                *(f"class_sensitivity@{other}" for other in ("second", "random")),
            ),
            choices=(
                "20 steps, trapezoids",
                "squares' sides uniform from 0.1 to 0.5 of the picture's side",
                "class sensitivity is the correlation of two classes' maps",
            ),
        ),
        Preset(
            "chefer",
            "Chefer's positive and negative perturbation",
            "arXiv 2012.09838",
            ("chefer@predicted", "chefer@label"),
            preprocessing=WHOLE,
            choices=("the mean of the nine accuracies",),
        ),
        Preset(
            "segmentation",
            "ImageNet-Segmentation",
            "arXiv 2012.09838",
            ("segmentation",),
            preprocessing=WHOLE,
        ),
        Preset(
            "srg",
            "Symmetric relevance gain and relevance mass",
            "arXiv 2401.06654",
            ("srg", "loc"),
            choices=(
                "the mean colour is zero of the normalised space",
                "positive relevance alone is counted in the mask",
            ),
        ),
        Preset(
            "sanity",
            "Randomisation of the model's weights",
            "arXiv 1810.03292",
            ("sanity", "sanity:order=independent"),
            choices=("new weights have each tensor's own mean and standard deviation",),
        ),
        Preset(
            "all",
            "Every metric, on the model's own preprocessing",
            "all of them",
            (
                *_LOCALIZATION,
                "grid_pointing",
                "abpc",
                "chefer@predicted",
                "chefer@label",
                "srg",
                *(f"mif_lif@{fill}" for fill in ("blur", "zero", "mean")),
                *(f"box_sensitivity@{fill}" for fill in ("blur", "zero")),
                "rise",
                "drop",
                "infidelity",
                "compactness",
                "class_sensitivity@second",
                "class_sensitivity@random",
                "two_objects",
                "sanity",
                "sanity:order=independent",
                "noise",
                "equivariance",
                "sensitivity",
            ),
        ),
    )
}


def as_presets(wanted: str | Sequence[str]) -> list[Preset]:
    """What a user's words mean: presets by name, and one of the name "asked" with all other metrics that are named.

    A word that is a preset's name and a metric's group is the preset ("agcam"); "agcam@0.3" is the metric.

    Args:
        wanted: "agcam", "srg,agcam/iou@0.3", or a sequence of such.

    Raises:
        MetricError: nothing is named, or a name is unknown.
    """
    words = split_methods(wanted) if isinstance(wanted, str) else [word.strip() for word in wanted]
    found = [PRESETS[word] for word in dict.fromkeys(words) if word in PRESETS]
    others = [word for word in words if word not in PRESETS]
    known = {facts.name.split("/")[0] for facts in default_names().values()}
    for word in others:
        group = word.partition(":")[0].partition("@")[0].partition("/")[0]
        if group not in known:
            raise MetricError(
                f"unknown metric '{word}'{nearest(group, {*known, *PRESETS}) or '; presets: ' + ', '.join(PRESETS)}"
            )
    if others:
        found.append(Preset("asked", "Metrics asked for by name", "each its own", tuple(others)))
        found[-1].chosen()
    if not found:
        raise MetricError(f"no metric is named; presets: {', '.join(PRESETS)}")
    return found


def possible(chosen: Mapping[str, Chosen], truth: Sequence[str]) -> tuple[dict[str, Chosen], dict[str, str]]:
    """What of the metrics a dataset can answer, and why not the others.

    Args:
        chosen: by full name.
        truth: what the dataset knows: "mask", "boxes", "two masks", "label".

    Returns:
        the possible ones, and full name -> reason.
    """
    reasons = {name: _lacks(one.facts, truth) for name, one in chosen.items()}
    return (
        {name: one for name, one in chosen.items() if not reasons[name]},
        {name: reason for name, reason in reasons.items() if reason},
    )


def _lacks(facts: Facts, truth: Sequence[str]) -> str:
    if facts.truth == "none" or facts.truth in truth:
        return ""
    needs = {"mask": "masks or boxes", "boxes": "boxes", "two masks": "masks of two things", "label": "true classes"}
    return f"{facts.name} needs {needs[facts.truth]}, which this dataset does not have"
