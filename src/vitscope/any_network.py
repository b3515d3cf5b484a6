"""Explanations of any network that contains attention, of any output and any image-like input."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from vitscope.activation import Activation
from vitscope.attribution import Explanation, Subject
from vitscope.errors import FlatMapError, MethodError, ModelError, TargetError, VitscopeError, text_of
from vitscope.images import Batch, Geometry, Preprocessing, prepare
from vitscope.methods import Chosen, Maps, Method
from vitscope.models import Running
from vitscope.network import probe
from vitscope.outcome import Progress, Seen, attribute, deaf
from vitscope.passes import joined_maps, part_of, reads_raw_output
from vitscope.recording import (
    AlteredInputs,
    BoundTarget,
    Network,
    Recording,
    described,
    joined,
    leaves,
    logits_of,
    record_network,
    rows_of,
)
from vitscope.targets import Class, ClassNames, Probability, Target
from vitscope.targets.names import UNNAMED
from vitscope.trace import Needs, gradient_along
from vitscope.trace.chunks import out_of_memory

Inputs = Mapping[str, Any]
"""Further arguments of the network's forward, by name."""

Call = Callable[[nn.Module, Tensor], Any]
"""Runs a module on images -> its raw output."""


@dataclass
class Networks:
    """One module, probed once for each shape of its input.

    Attributes:
        model: the module.
        running: the precision and memory layout of passes; the probe runs in the weights' own.
    """

    model: nn.Module
    running: Running = field(default_factory=Running)
    _known: dict[Any, Network] = field(default_factory=dict)

    def of(self, images: Tensor, inputs: Inputs) -> Network:
        """What was found of the module for such images and other inputs.

        Raises:
            ModelError: the module does not take them.
        """
        key = (images.shape[1:], images.dtype, tuple(sorted((name, _shape(value)) for name, value in inputs.items())))
        call = partial(_call, _name_of_image(self.model), len(images), dict(inputs))
        if key not in self._known:
            try:
                spec = probe(self.model, call, images[:1])
            except Exception as error:  # a module may raise anything
                if isinstance(error, VitscopeError) or out_of_memory(error):
                    raise
                raise ModelError(
                    f"{type(self.model).__name__} cannot be run on an input of shape {tuple(images.shape)}"
                    f"{' with ' + ', '.join(inputs) if inputs else ''} ({text_of(error)}); give a tensor of the shape "
                    "that its forward takes, and its other arguments as inputs={...}"
                ) from error
            self._known[key] = Network(self.model, call, spec)
        return replace(self._known[key], call=self.run(call))

    def run(self, call: Call) -> Call:
        """The call as it is run in passes."""
        return call if self.running == Running() else partial(_run_as, self.running, call)

    def forget(self) -> None:
        """Probe again when next asked: the module has changed."""
        self._known.clear()


def _run_as(running: Running, call: Call, model: nn.Module, images: Tensor) -> Any:
    """In another precision, with tensors of the output in float32 then, or in another memory layout."""
    if running.channels_last and images.ndim == 4:
        images = images.contiguous(memory_format=torch.channels_last)
    with running.lowered(images.device):
        output = call(model, images)
    return tree_map(lambda leaf: running.wide(leaf) if isinstance(leaf, Tensor) else leaf, output)


def _shape(value: Any) -> Any:
    return tuple(value.shape[1:]) if isinstance(value, Tensor) else repr(value)


def _name_of_image(model: nn.Module) -> str | None:
    """The argument that the image is given as; None for the first."""
    names = list(inspect.signature(model.forward).parameters)
    main = getattr(model, "main_input_name", None)
    for name in (main, "pixel_values", "pixel_values_videos", "images", "image"):
        if name in names and names[0] != name:
            return str(name)
    return None


def _call(name: str | None, samples: int, inputs: dict[str, Any], model: nn.Module, images: Tensor) -> Any:
    """Run the module; for another number of images than the batch's, each has the first sample's other inputs."""

    def fitting(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.is_floating_point() and value.dtype != images.dtype:
            value = value.to(images.dtype)
        if len(images) == samples or value.ndim == 0 or len(value) != samples:
            return value
        return value[:1].expand(len(images), *value.shape[1:])

    others = {key: fitting(value) for key, value in inputs.items()}
    return model(images, **others) if name is None else model(**{name: images}, **others)


def as_batch(images: Any, preprocessing: Preprocessing) -> Batch:
    """A batch of any image-like input: what `prepare` takes, or a float tensor (b ...) that is explained as it is."""
    if not isinstance(images, Tensor) or (images.ndim == 4 and images.shape[1] == 3):
        return prepare(images, preprocessing)
    if images.ndim < 2 or 0 in images.shape:
        raise TargetError(f"a tensor of shape {tuple(images.shape)} is no batch of inputs; give (b, ...)")
    size = (images.shape[-2], images.shape[-1]) if images.ndim >= 4 else (1, images.shape[1])
    originals = tuple(_shown(image, size) for image in images)
    names = tuple(f"image-{index}" for index in range(len(images)))
    return Batch(images, (Geometry.identity(*size),) * len(images), originals, names)


def _shown(image: Tensor, size: tuple[int, int]) -> Image.Image:
    """An input as a grey image: the mean over all axes but the last two, from its lowest to its highest value."""
    plane = image.detach().float().cpu()
    plane = plane.flatten(0, -3).mean(dim=0) if plane.ndim >= 3 else plane.new_zeros(size)
    low, high = float(plane.min()), float(plane.max())
    scaled = (plane - low) / max(high - low, 1e-12) * 255
    return Image.fromarray(scaled.numpy().astype(np.uint8)).convert("RGB")


@dataclass(frozen=True)
class Recorded:
    """A pass over any network, and what the methods made of it.

    Attributes:
        recording: the pass.
        logits: the (b c) logits, where the output has any.
        maps: each method's maps, or the reason why there are none.
    """

    recording: Recording
    logits: Tensor | None
    maps: dict[str, Maps | VitscopeError]

    @classmethod
    def join(cls, parts: Sequence[Recorded]) -> Recorded:
        """Of a batch that was run in parts."""
        if len(parts) == 1:
            return parts[0]
        logits = [part.logits for part in parts if part.logits is not None]
        recording = replace(
            parts[0].recording,
            output=joined([part.recording.output for part in parts]),
            values=torch.cat([part.recording.values for part in parts]),
            images=torch.cat([part.recording.images for part in parts]),
        )
        maps = {label: joined_maps([part.maps[label] for part in parts]) for label in parts[0].maps}
        return cls(recording, torch.cat(logits) if len(logits) == len(parts) else None, maps)


def record_any(
    networks: Networks,
    batch: Batch,
    inputs: Inputs,
    chosen: Chosen,
    aims: Sequence[Target],
    activation: Callable[[int], Activation],
    progress: Progress | None = None,
    undescribed: str = "",
) -> Recorded:
    """One recording for all methods and targets.

    Args:
        networks: the module.
        batch: the images.
        inputs: further arguments of its forward.
        chosen: the methods.
        aims: the targets.
        activation: of so many logits, what turns them into probabilities.
        progress: is called with a method's label, forwards done, and of how many.
        undescribed: why the module has no description, for the reasons of methods that need one.

    Raises:
        ModelError: the module does not take the images, or its output is not finite.
        TargetError: a target does not fit the output.
    """
    images, given = as_weights(networks.model, batch.tensor, inputs)
    network = networks.of(images, given)
    if len(images) > 1 and not network.separable:
        count = len(images)
        parts = [
            record_any(
                networks,
                batch.part(slice(index, index + 1)),
                of_samples(given, index, index + 1, count),
                chosen,
                [part_of(aim, index, index + 1, count) for aim in aims],
                activation,
                progress,
                undescribed,
            )
            for index in range(count)
        ]
        return Recorded.join(parts)
    running = {label: method for label, method in chosen.methods.items() if method.facts.any_network}
    needs = reduce(Needs.__or__, map(_needs, running.values()), Needs())
    scores = [partial(_score, aim) for aim in aims]
    standard = "logits" if not any(map(reads_raw_output, aims)) else None
    recording = record_network(network, images, needs, scores, standard)
    if needs.pictures:
        recording = replace(
            recording,
            altered=_altered(
                networks, network.separable, recording, given, aims, _activation_of(recording.output, activation)
            ),
        )
    found: dict[str, Maps | VitscopeError] = {}
    unknown = not undescribed or undescribed.startswith("no adapter knows")
    more = "" if unknown else f"; the model was not understood: {undescribed}"
    for label, method in chosen.methods.items():
        if label not in running:
            able = ", ".join(GENERAL)
            found[label] = MethodError(f"{label} is not defined for a network without a description; use {able}{more}")
            continue
        try:
            report = None if progress is None else partial(progress, label)
            found[label] = method(recording.reporting(report))  # type: ignore[arg-type]
        except VitscopeError as error:
            found[label] = type(error)(f"{label} is not defined for {type(networks.model).__name__}: {error}{more}")
    return Recorded(recording, logits_of(recording.output), found)


def as_weights(model: nn.Module, images: Tensor, inputs: Inputs) -> tuple[Tensor, dict[str, Any]]:
    """Images in the dtype of a module's weights, and they and its other inputs on its device."""
    parameter = next(model.parameters())
    images = images.detach().to(parameter.device)
    images = images.to(parameter.dtype) if parameter.is_floating_point() else images
    others = {
        name: value.to(parameter.device) if isinstance(value, Tensor) else value for name, value in inputs.items()
    }
    return images, others


def _activation_of(output: Any, activation: Callable[[int], Activation]) -> Activation:
    """Of a raw output: none where it has no logits."""
    logits = logits_of(output)
    return "none" if logits is None else activation(logits.shape[1])


def _altered(
    networks: Networks,
    separable: bool,
    recording: Recording,
    inputs: Inputs,
    aims: Sequence[Target],
    activation: Activation,
) -> AlteredInputs:
    """The network, to be run on altered copies of each sample beside that sample's other inputs."""
    count, name = len(recording.images), _name_of_image(networks.model)
    return AlteredInputs(
        networks.model,
        [networks.run(partial(_call, name, 1, of_samples(inputs, index, index + 1, count))) for index in range(count)],
        [[_bound(aim, recording.output, count, index, activation) for aim in aims] for index in range(count)],
        recording.images,
        recording.spatial,
        recording.grid,
        None if separable else 1,
    )


def _is_row_by_row(aim: Target, output: Any) -> bool:
    """Whether a function gives of a sample what it gives of it in another batch, as none that knows the batch does."""
    if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(output)):
        return True  # of a type that cannot be divided
    doubled = tree_map(lambda leaf: torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.ndim else leaf, output)
    try:
        once, twice = aim.score(output), aim.score(doubled)
    except Exception:  # a function of the user's may raise anything
        return False
    return len(twice) == 2 * len(once) and torch.allclose(twice, torch.cat([once, once]), rtol=1e-4, atol=1e-6)


def _copy_by_copy(aim: Target, index: int, count: int, raw: Any) -> Tensor:
    """A function of whole batches, of copies of one sample, each in its original's place."""
    one, copies = part_of(aim, index, index + 1, count), len(leaves(raw)[0][1])
    return torch.cat([one.score(rows_of(raw, copy, copy + 1)) for copy in range(copies)])


def _bound(aim: Target, output: Any, count: int, index: int, activation: Activation) -> BoundTarget:
    """A target of one sample: the predicted class stays that of the unaltered input."""
    logits = None if reads_raw_output(aim) else logits_of(output)
    if logits is None:
        value = aim.score if _is_row_by_row(aim, output) else partial(_copy_by_copy, aim, index, count)
        return BoundTarget(value)
    classes = aim.classes(logits)
    if classes is None:
        return BoundTarget(partial(_score, part_of(aim, index, index + 1, count)))
    asked = int(classes[index])
    if isinstance(aim, Probability):
        bound = partial(_score, replace(aim, index=asked))
        return BoundTarget(bound, bound)
    likely = None if activation == "none" else partial(_score, Probability(asked, activation=activation))
    return BoundTarget(partial(_score, Class(asked)), likely)


GENERAL = ("daam", "agcam", "cdam", "gradcam", "attention", "input_x_gradient")
"""Examples for messages."""


def _needs(method: Method) -> Needs:
    """What a method reads of any network, where that is another than of a described model."""
    found: Needs = getattr(method, "needs_of_any_network", method.needs)
    return found | gradient_along("libra") if getattr(method, "path", "") == "libra" else found


def of_samples(inputs: Inputs, start: int, stop: int, samples: int) -> dict[str, Any]:
    """The other inputs of some samples of a batch."""
    return {
        name: value[start:stop] if isinstance(value, Tensor) and value.ndim and len(value) == samples else value
        for name, value in inputs.items()
    }


def _score(aim: Target, raw: Any) -> Tensor:
    """A target's value of a raw output.

    Raises:
        TargetError: it reads logits, and there are none.
    """
    if reads_raw_output(aim):
        return aim.score(raw)
    logits = logits_of(raw)
    if logits is None:
        raise TargetError(
            f"{aim.describe()} is defined for (b, c) logits, and the output is {described(raw)}; give a function of "
            "the output as the target, such as lambda output: output[:, 0]"
        )
    return aim.score(logits)


def explanation_of(
    recorded: Recorded,
    batch: Batch,
    names: ClassNames,
    provenance: Mapping[str, Any],
    activation: Callable[[int], Activation],
    chosen: Chosen,
    aim: Target,
    slot: int,
    strict: bool,
) -> Explanation:
    """One target's explanation.

    Raises:
        VitscopeError: with `strict`, a method that was named has no map.
    """
    recording, logits = recorded.recording, recorded.logits
    classes = None if logits is None or reads_raw_output(aim) else aim.classes(logits)
    shown = recording.values[:, slot : slot + 1] if logits is None or classes is None else logits
    known = names if classes is not None and shown.shape[1] == len(names.names) else UNNAMED
    provenance = {**provenance, "activation": _activation_of(logits, activation)}
    subject = Subject(
        batch, batch.geometries, shown, classes is not None, classes, aim.describe(known), known, provenance
    )
    seen = Seen.of_any(shown, recording.grid, recording.targets)
    attributions, failures = {}, {}
    for label, method in chosen.methods.items():
        try:
            if reason := deaf(label, method, seen, aim, subject):
                raise TargetError(reason)
            found = attribute(label, method, recorded.maps[label], seen, slot, subject)
            attributions[label] = replace(found, facts=replace(found.facts, cost=""))  # measured on described models
        except VitscopeError as error:
            if strict and (label not in chosen.grouped or isinstance(error, FlatMapError)):
                raise
            failures[label] = str(error)
    left_out = chosen.grouped & failures.keys()
    return Explanation(subject, attributions, failures, left_out, recording.output)
