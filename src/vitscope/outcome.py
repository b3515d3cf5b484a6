"""What becomes of each method that is asked for: its attribution, or the reason why there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vitscope.attribution import Attribution, Subject
from vitscope.errors import FlatMapError, MethodError, TargetError, VitscopeError
from vitscope.methods import Chosen, Maps, Method, why_undefined
from vitscope.models import Anatomy
from vitscope.targets import Predicted, Target
from vitscope.trace import Trace


@dataclass(frozen=True)
class Seen:
    """What is kept of a pass beside the maps.

    Attributes:
        logits: the model's output, (b c).
        grid: such as (rows, cols).
        reached, carried: as of the trace, (b m) bool.
        arrived: whether any gradient reaches the last block's class row, where that was recorded, (b m) bool.
    """

    logits: Tensor
    grid: tuple[int, ...]
    reached: Tensor
    carried: Tensor
    arrived: Tensor

    @classmethod
    def of(cls, trace: Trace) -> Seen:
        """Of one pass."""
        last = trace.blocks[-1] if trace.blocks else None
        arrived = torch.ones_like(trace.reached)
        if last is not None and last.has("skip_gradient"):
            arrived = last.skip_gradient.flatten(3).any(dim=-1).any(dim=1)  # b h m d
        return cls(trace.logits, trace.grid, trace.reached, trace.carried, arrived)

    @classmethod
    def of_any(cls, logits: Tensor, grid: tuple[int, ...], targets: int) -> Seen:
        """Of a pass over a network without a description."""
        reached = torch.ones(len(logits), targets, dtype=torch.bool)
        return cls(logits, grid, reached, reached, reached)

    @classmethod
    def join(cls, parts: Sequence[Seen]) -> Seen:
        """Of a batch that was run in parts."""
        logits, reached, carried, arrived = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("logits", "reached", "carried", "arrived")
        )
        return cls(logits, parts[0].grid, reached, carried, arrived)


Progress = Callable[[str, int, int], object]
"""Is told a method's label, and of its forwards how many are done, and of how many."""


def undefined(anatomy: Anatomy, label: str, method: Method) -> str:
    """Why the method is not defined for the model, or "" where it is."""
    reason = why_undefined(anatomy, method)
    return f"{label} is not defined for {anatomy.name}: {reason}" if reason else ""


def refusals(
    anatomy: Anatomy, methods: Mapping[str, Method], aims: Sequence[Target]
) -> dict[str, MethodError | TargetError]:
    """The methods that cannot be run, whatever the pictures: not defined for the model, or no class to explain."""
    headless = not anatomy.outputs and any(isinstance(aim, Predicted) for aim in aims)
    refused: dict[str, MethodError | TargetError] = {}
    for label, method in methods.items():
        if reason := undefined(anatomy, label, method):
            refused[label] = MethodError(reason)
        elif headless and method.facts.class_specific:
            other = "a text as the target" if anatomy.texts else "weights with a head, or a target "
            refused[label] = TargetError(
                f"the model has no classifier head, so no class is predicted; give {other}"
                + ("" if anatomy.texts else "that is a function of the features")
            )
    return refused


def refuse(
    anatomy: Anatomy, chosen: Chosen, aims: Sequence[Target], strict: bool
) -> dict[str, MethodError | TargetError]:
    """The methods that cannot be run, where others can; see `refusals`.

    Raises:
        MethodError, TargetError: none can be run, or one that was named must not be left out.
    """
    refused = refusals(anatomy, chosen.methods, aims)
    for label, error in refused.items():
        named = label not in chosen.grouped
        if len(refused) == len(chosen.methods) or (named and (strict or isinstance(error, TargetError))):
            raise error
    return refused


def maps_of(label: str, method: Method, trace: Trace, strict: bool, progress: Progress | None) -> Maps | VitscopeError:
    """A method's maps for all targets, as they lie on the images; or the reason why there are none."""
    try:
        maps = method(trace.reporting(None if progress is None else partial(progress, label)))
        return maps.each(trace.upright) if isinstance(maps, Maps) else maps
    except VitscopeError as error:
        if strict:
            raise
        return error


def deaf(label: str, method: Method, seen: Seen, target: Target, subject: Subject) -> str:
    """Why a class-agnostic method has no map for a target other than the prediction, or "" where it has one."""
    if method.facts.class_specific or isinstance(target, Predicted):
        return ""
    if subject.target is not None and torch.equal(subject.target, seen.logits.argmax(dim=1)):
        return ""
    return (
        f"{label} is class-agnostic: it gives the same map for {subject.asked} as for any other; leave the target out, "
        "or use a class-specific method"
    )


def attribute(
    label: str,
    method: Method,
    maps: Maps | VitscopeError,
    seen: Seen,
    slot: int,
    subject: Subject,
) -> Attribution:
    """One target's part of a method's maps.

    Raises:
        MethodError: the maps have other axes than they must.
        FlatMapError: a map is constant or not finite.
        VitscopeError: what the method itself refused.
    """
    if isinstance(maps, VitscopeError):
        raise maps
    axes = "(b m, grid)" if method.facts.class_specific else "(b, grid)"
    if maps.values.ndim != len(seen.grid) + 1 + method.facts.class_specific:
        raise MethodError(f"{label} gave values of shape {tuple(maps.values.shape)}; its maps must be {axes}")
    values, blocks, heads = (
        None if part is None else (part[:, slot] if method.facts.class_specific else part).float()
        for part in (maps.values, maps.blocks, maps.heads)
    )
    assert values is not None
    if not method.facts.trivial:
        _refuse_flat(label, method, values, seen, slot)
    options = dataclasses.asdict(method)  # type: ignore[call-overload]
    return Attribution(label, method.facts, options, values, blocks, heads, subject)


def _refuse_flat(label: str, method: Method, maps: Tensor, seen: Seen, slot: int) -> None:
    """Raise FlatMapError where a map is not finite or constant, and say why."""
    for image, values in enumerate(maps):
        if not torch.isfinite(values).all():
            raise FlatMapError(f"the {label} map of image {image} is not finite; run the model in float32")
        if values.numel() > 1 and values.min() == values.max():
            if not method.facts.class_specific:
                cause = "to it all patches of this image are alike; load trained weights, or use another method"
            elif not seen.reached[image, slot]:
                cause = "the target's gradient at the model's output is zero; explain another target"
            elif not (seen.carried[image, slot] and seen.arrived[image, slot]):
                cause = (
                    "no gradient reaches the class token, as with a head whose weights are zero; load trained weights"
                )
            elif method.facts.family == "perturbation":
                cause = "all altered pictures score alike, or none speaks for the target; take more, or another target"
            else:
                cause = "after its ReLUs no patch speaks for the target; explain another target, or use a signed method"
            raise FlatMapError(
                f"the {label} map of image {image} is flat (every value {float(values.min()):g}): {cause}"
            )
