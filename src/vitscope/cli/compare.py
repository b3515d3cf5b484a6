"""`vitscope compare`: methods or models side by side, in one sheet."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitscope.cli import common
from vitscope.errors import VitscopeError

if TYPE_CHECKING:
    from PIL import Image
    from torch import nn

    from vitscope.attribution import Explanation

_TILE, _FRAMES = 120, 12


def compare(
    images: common.Images,
    model: Annotated[
        list[str], typer.Option("--model", "-m", help="A name or a directory; several models are compared, row by row.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write, .png.")],
    weights: common.Weights = None,
    weights_key: common.WeightsKey = None,
    random: Annotated[
        bool, typer.Option("--random", help="Random weights: shows that a model is understood; its maps mean nothing.")
    ] = False,
    methods: common.Methods = "daam,agcam,cdam,attention",
    target: common.TargetOption = None,
    bank: common.Bank = None,
    evolution: Annotated[
        bool, typer.Option("--evolution", help="How each method's map accumulates over the blocks, as a filmstrip.")
    ] = False,
    labels: common.Labels = None,
    activation: common.ActivationOption = None,
    device: common.Device = "cpu",
    precision: common.Precision = "float32",
    batch_size: common.BatchSize = 8,
    max_forwards: common.MaxForwards = None,
    memory_limit: common.MemoryLimit = None,
    size: common.Size = None,
    crop_pct: common.CropPct = None,
    crop_mode: common.CropMode = None,
    interpolation: common.Interpolation = None,
    mean: common.Mean = None,
    std: common.Std = None,
) -> None:
    """Compare methods, a row an image and a column a method; or several models, a row each; or their evolutions."""
    if out.suffix.lower() != ".png":
        raise VitscopeError(f"--out {out}: the comparison is written as a .png file; give a name that ends so")
    if weights is not None and len(model) > 1:
        raise VitscopeError("--weights belongs to one model; give directories or names whose weights are published")
    fields = common.preprocessing_fields(size, crop_pct, crop_mode, interpolation, mean, std)
    applied = common.activation_of(activation)
    running, limit = common.running_of(precision), common.bounded(memory_limit)

    from vitscope.cli.run_over import run_over
    from vitscope.explainer import Explainer
    from vitscope.methods import choose
    from vitscope.save import COLOURS, panels_of, save_picture
    from vitscope.view import contact, under_headings

    pictures = common.find_pictures(images)
    failed: dict[str, str] = {}
    panels, strips = [], []
    for name in model:
        try:
            explainer = Explainer(
                name,
                weights,
                pretrained=not random,
                labels=labels,
                activation=applied,
                preprocessing=fields,
                device=device,
                running=running,
                memory_limit=limit,
                weights_key=weights_key,
            )
            if random:
                _stir(explainer.anatomy.model)
            aim = common.check_use(explainer, methods, target, bank, max_forwards)
        except VitscopeError as error:
            if len(model) == 1:
                raise
            failed[name] = str(error)
            common.say(str(error))
            continue
        for _, explanation in run_over(explainer, pictures, methods, aim, batch_size, failed, max_forwards):
            subject = explanation.subject
            for index, (picture, photo) in enumerate(zip(subject.batch.names, subject.batch.originals, strict=True)):
                called = f"{name}, random weights" if random else name
                heading = f"{called} · {picture}" if random or len(model) > 1 else picture
                if evolution:
                    strips += _strips(explanation, index, heading, choose(methods).grouped, failed)
                else:
                    panels.append((photo, panels_of(explanation, index), f"{heading}\n{subject.title(index)}"))
    if panels or strips:
        save_picture(under_headings(strips) if evolution else contact(panels, COLOURS), out)
        common.tell(str(out))
    raise typer.Exit(1 if failed else 0)


def _stir(model: nn.Module) -> None:
    """Give matrices that start at zero, as some heads do, random values: no gradient passes them otherwise."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))


def _strips(
    explanation: Explanation, index: int, heading: str, grouped: Collection[str], failed: dict[str, str]
) -> list[tuple[str, Image.Image]]:
    """A filmstrip for every method that gives a map a block; one that was asked for and gives none is in `failed`."""
    from vitscope.save import evolution_of
    from vitscope.view import filmstrip

    found = []
    for label, attribution in explanation.attributions.items():
        if attribution.blocks is None:
            if label in grouped:
                continue
            failed[f"{heading}, {label}"] = reason = f"{label} gives no map a block; leave --evolution out, or use daam"
            common.say(reason)
            continue
        view, frames, labels = evolution_of(attribution, index, _TILE, _FRAMES)
        strip = filmstrip(view, frames, labels, attribution.signed, columns=_FRAMES, tile=_TILE)
        found.append((f"{heading} · {label} · {explanation.subject.title(index)}", strip))
    return found
