"""What the perturbation methods share: how many samples there are, and a map out of masks and what they score."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from vitscope.errors import MethodError
from vitscope.methods.base import Method


def check_samples(name: str, samples: int, max_forwards: int | None, least: int = 1) -> None:
    """Raise MethodError for fewer samples than one, or a budget below `least` forwards."""
    if samples < 1:
        raise MethodError(f"{name}: {samples} samples make no map; give at least 1")
    if max_forwards is not None and max_forwards < least:
        raise MethodError(f"{name}:max_forwards={max_forwards}: it needs at least {least} for a picture")


def within(samples: int, max_forwards: int | None) -> int:
    """The number of samples, cut to a budget of one forward each."""
    return samples if max_forwards is None else min(samples, max_forwards)


def with_budget(methods: Mapping[str, Method], max_forwards: int | None) -> dict[str, Method]:
    """The methods, where those that have an option `max_forwards` and were not given one get this.

    Raises:
        MethodError: a method needs more.
    """
    if max_forwards is None:
        return dict(methods)
    return {
        label: dataclasses.replace(method, max_forwards=max_forwards)  # type: ignore[type-var]
        if getattr(method, "max_forwards", 0) is None
        else method
        for label, method in methods.items()
    }


def weigh(masks: Tensor, scores: Tensor, has_probability: Tensor) -> Tensor:
    """Every target's sum over masks of score times mask, (m P): what a picture that is masked so scores.

    A probability is 0 or more. Another target, or a class of a head without probabilities, has no such zero, and the
    lowest of the samples' scores is taken for it, so that no map is negative; likewise where differences of
    probabilities are below 0. Where all score alike the sum would show the masks alone, and is 0 everywhere.

    Args:
        masks: (n P).
        scores: (n m).
        has_probability: whether a target's scores are probabilities, (m).
    """
    lowest = scores.amin(dim=0)
    differ = scores.amax(dim=0) > lowest
    shifted = scores - torch.where(has_probability, lowest.clamp(max=0), lowest)
    return (shifted * differ).T @ masks.to(scores)


def stretched(values: Tensor) -> Tensor:
    """Each (... k) of the last axis from 0 to 1; where it is constant, 0."""
    low, high = values.amin(dim=-1, keepdim=True), values.amax(dim=-1, keepdim=True)
    return (values - low) / (high - low).clamp_min(1e-8)
