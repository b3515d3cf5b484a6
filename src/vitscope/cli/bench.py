"""`vitscope bench`: methods on data with known truth, a row an image, method and metric."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from vitscope.cli import common
from vitscope.cli import engine as options
from vitscope.defaults import PART

if TYPE_CHECKING:
    from vitscope.bench import OnRay, Outcome, Plan
    from vitscope.explainer import Explainer
    from vitscope.metrics import Preset


def bench(
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="A name with options: voc:split=val.")],
    model: common.Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the rows and the manifest.")],
    root: Annotated[Path | None, typer.Option("--root", help="The data set's folder.")] = None,
    weights: common.Weights = None,
    weights_key: common.WeightsKey = None,
    methods: common.Methods = "daam,agcam,cdam,rollout,random,center,frame",
    metrics: Annotated[
        str, typer.Option("--metrics", help="Presets and metrics: agcam,srg,energy; vitscope metrics lists them.")
    ] = "agcam",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many images.")] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Of what is drawn at random; with --limit also of the choice of images."),
    ] = None,
    labels: common.Labels = None,
    activation: common.ActivationOption = None,
    device: common.Device = "cpu",
    precision: common.Precision = "float32",
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="The memory layout of the metrics' altered pictures.")
    ] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="torch.compile for the forwards of the metrics' altered pictures.")
    ] = False,
    batch_size: common.BatchSize = 16,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete what another run left in --out.")] = False,
    engine: options.Engine = "local",
    workers: options.Workers = None,
    gpus_per_worker: options.GpusPerWorker = None,
    address: options.Address = None,
    part_size: options.PartSize = PART,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Instead of the presets' own: predicted, or label.")
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", help="Instead of the presets' own: all, or correct.")
    ] = None,
    max_forwards: common.MaxForwards = None,
    memory_limit: common.MemoryLimit = None,
    size: common.Size = None,
    crop_pct: common.CropPct = None,
    crop_mode: common.CropMode = None,
    interpolation: common.Interpolation = None,
    mean: common.Mean = None,
    std: common.Std = None,
) -> None:
    """Measure methods on data with known truth; an interrupted run goes on with --resume."""
    common.check_choice("--target", target, ("predicted", "label"))
    common.check_choice("--images", images, ("all", "correct"))
    common.check_resume(resume, overwrite)
    on = options.engine_of(engine, workers, gpus_per_worker, address, device)
    fields = common.preprocessing_fields(size, crop_pct, crop_mode, interpolation, mean, std)
    applied = common.activation_of(activation)
    running = common.running_of(precision, channels_last, compiled)

    from vitscope.bench import make_plan, summarise
    from vitscope.explainer import Explainer
    from vitscope.metrics import as_presets

    presets = [overridden(preset, target, images) for preset in as_presets(metrics)]
    explainer = Explainer(
        model,
        weights,
        labels=labels,
        activation=applied,
        preprocessing=fields,
        device="cpu" if on else device,
        running=running,
        memory_limit=common.bounded(memory_limit),
        weights_key=weights_key,
    )
    plan = make_plan(
        explainer,
        dataset,
        root,
        methods=methods,
        metrics=presets,
        limit=limit,
        seed=seed,
        asked=fields,
        max_forwards=max_forwards,
        part_size=part_size,
    )
    groups: dict[str, str] = {name.split("/")[0]: reason for name, reason in plan.skipped().items()}
    for reason in dict.fromkeys(groups.values()):
        common.say(f"left out: {reason}")
    outcome = _with_bar(plan, explainer, out, device, batch_size, workers, resume, overwrite, on)
    for preset, count in outcome.left_out.items():
        common.say(f"{preset}: {count} misclassified images of {outcome.images} are left out, as its paper does")
    summary = summarise(out)
    if outcome.failed:
        first = summary.failures[0]
        common.say(
            f"{outcome.failed} of {outcome.images} images failed, as {first.image} ({first.error}); the page lists "
            "what failed and why, and so does the column error of the rows"
        )
    common.tell(str(out / "page.html"))
    raise typer.Exit(1 if outcome.failed else 0)


def overridden(preset: Preset, target: str | None, images: str | None) -> Preset:
    """A preset with another target or choice of pictures than its paper's."""
    if target is not None:
        preset = dataclasses.replace(preset, target=cast('Literal["predicted", "label"]', target))
    if images is not None:
        preset = dataclasses.replace(preset, images=cast('Literal["all", "correct"]', images))
    return preset


def _with_bar(
    plan: Plan,
    explainer: Explainer,
    out: Path,
    device: str,
    batch_size: int,
    workers: int | None,
    resume: bool,
    overwrite: bool,
    on: OnRay | None,
) -> Outcome:
    from vitscope.bench import bench as run_bench

    with common.progress_bar() as progress:
        task = progress.add_task("measuring", total=plan.count)
        return run_bench(
            plan,
            out,
            explainer=explainer,
            device=device,
            batch_size=batch_size,
            readers=workers,
            resume=resume,
            overwrite=overwrite,
            engine=on,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
            say=common.say,
        )
