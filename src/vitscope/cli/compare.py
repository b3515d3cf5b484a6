"""`vitscope compare`: methods side by side, a row a picture, in one sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitscope.cli import common
from vitscope.errors import VitscopeError
from vitscope.explainer import Explainer
from vitscope.view import contact
from vitscope.view.save import panels_of, save_picture


def compare(
    images: common.Images,
    model: common.Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write, .png.")],
    weights: common.Weights = None,
    methods: common.Methods = "daam,agcam,cdam,attention",
    target: common.TargetOption = None,
    bank: common.Bank = None,
    labels: common.Labels = None,
    device: common.Device = "cpu",
    batch_size: common.BatchSize = 8,
    size: common.Size = None,
    crop_pct: common.CropPct = None,
    crop_mode: common.CropMode = None,
    interpolation: common.Interpolation = None,
    mean: common.Mean = None,
    std: common.Std = None,
) -> None:
    """Compare methods: one picture with a row an image and a column a method."""
    if out.suffix.lower() != ".png":
        raise VitscopeError(f"--out {out}: the comparison is written as a .png file; give a name that ends so")
    fields = common.preprocessing_fields(size, crop_pct, crop_mode, interpolation, mean, std)
    explainer = Explainer(model, weights, labels=labels, preprocessing=fields, device=device)
    aim = common.check_use(explainer, methods, target, bank)
    failed: dict[str, str] = {}
    rows = []
    for _, explanation in common.run_over(explainer, common.find_pictures(images), methods, aim, batch_size, failed):
        subject = explanation.subject
        for index, (name, photo) in enumerate(zip(subject.batch.names, subject.batch.originals, strict=True)):
            rows.append((photo, panels_of(explanation, index), f"{name}\n{subject.title(index)}"))
    if rows:
        save_picture(contact(rows), out)
        common.tell(str(out))
    raise typer.Exit(1 if failed else 0)
