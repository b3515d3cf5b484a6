"""`vitscope explain`: maps of pictures, written to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitscope.cli import common
from vitscope.explainer import Explainer
from vitscope.view.save import prepare_folder, save_explanation, write_run_manifest


def explain(
    images: common.Images,
    model: common.Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    weights: common.Weights = None,
    methods: common.Methods = "daam,agcam,cdam",
    target: common.TargetOption = None,
    bank: common.Bank = None,
    labels: common.Labels = None,
    device: common.Device = "cpu",
    batch_size: common.BatchSize = 8,
    max_forwards: common.MaxForwards = None,
    size: common.Size = None,
    crop_pct: common.CropPct = None,
    crop_mode: common.CropMode = None,
    interpolation: common.Interpolation = None,
    mean: common.Mean = None,
    std: common.Std = None,
) -> None:
    """Explain pictures: for each an overlay a method, DAAM's evolution, a sheet, the raw values and a manifest."""
    fields = common.preprocessing_fields(size, crop_pct, crop_mode, interpolation, mean, std)
    explainer = Explainer(model, weights, labels=labels, preprocessing=fields, device=device)
    aim = common.check_use(explainer, methods, target, bank, max_forwards)
    prepare_folder(out)
    failed: dict[str, str] = {}
    written: dict[str, str] = {}
    for paths, explanation in common.run_over(
        explainer, common.find_pictures(images), methods, aim, batch_size, failed, max_forwards
    ):
        folders = save_explanation(explanation, out, taken=set(written.values()))
        for index, (path, folder) in enumerate(zip(paths, folders, strict=True)):
            written[path] = folder.name
            common.tell(f"{path}  {explanation.subject.title(index)}  ->  {folder / 'sheet.png'}")
        write_run_manifest(out, written, failed)
    write_run_manifest(out, written, failed)
    raise typer.Exit(1 if failed else 0)
