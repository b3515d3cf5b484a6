"""`vitscope explain`: maps of pictures, written to a folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, cast

import typer

from vitscope.cli import common
from vitscope.cli import engine as options
from vitscope.defaults import PART
from vitscope.errors import VitscopeError

if TYPE_CHECKING:
    from vitscope.bench import OnRay
    from vitscope.explainer import Explainer
    from vitscope.targets import Target


def explain(
    images: common.Images,
    model: common.Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    weights: common.Weights = None,
    weights_key: common.WeightsKey = None,
    methods: common.Methods = "daam,agcam,cdam",
    target: common.TargetOption = None,
    bank: common.Bank = None,
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
    report: Annotated[
        bool, typer.Option("--report", help="Also one page to look at, report.html, with the evidence of every class.")
    ] = False,
    video: Annotated[
        list[str] | None,
        typer.Option("--video", help="The evolution also moving: gif, mp4 or webm; several with commas between."),
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", help="parquet: only the raw maps, of any number of pictures, in parts.")
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="With --store: float32, or float16.")] = "float32",
    engine: options.Engine = "local",
    workers: options.Workers = None,
    gpus_per_worker: options.GpusPerWorker = None,
    address: options.Address = None,
    part_size: options.PartSize = PART,
    resume: Annotated[bool, typer.Option("--resume", help="With --store: go on with an interrupted run.")] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace what another run left of these pictures in --out; with --store, delete all that it left.",
        ),
    ] = False,
) -> None:
    """Explain pictures: for each an overlay a method, DAAM's evolution, a sheet, the raw values and a manifest."""
    if store not in (None, "parquet"):
        raise VitscopeError(f"--store {store}: give parquet, or leave it out for pictures")
    on = options.engine_of(engine, workers, gpus_per_worker, address, device)
    for option, given in (("--report", report), ("--video", video)):
        if store is not None and given:
            raise VitscopeError(f"{option} is for pictures, and --store leaves them out; give one of them")
    if store is None and on is not None:
        raise VitscopeError("--engine ray is for maps in parts; add --store parquet")
    common.check_resume(resume, overwrite)
    if store is None and (resume or part_size != PART or dtype != "float32"):
        raise VitscopeError("--resume, --part-size and --dtype are for raw maps; add --store parquet")
    fields = common.preprocessing_fields(size, crop_pct, crop_mode, interpolation, mean, std)
    applied = common.activation_of(activation)
    running = common.running_of(precision)

    from vitscope.cli.run_over import run_over
    from vitscope.explainer import Explainer
    from vitscope.report import lens_of
    from vitscope.report.folder import PER_PAGE, write_report
    from vitscope.save import prepare_folder, save_explanation, write_run_manifest
    from vitscope.saved import Run, check_folders
    from vitscope.view.video import usable

    moving = usable(video or ())
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
    aim = common.check_use(explainer, methods, target, bank, max_forwards)
    if store is not None:
        sizes = _Sizes(batch_size, part_size, workers)
        _store(explainer, images, methods, aim, out, sizes, max_forwards, dtype, resume, overwrite, on)
    prepare_folder(out)
    failed: dict[str, str] = {}
    written: dict[str, str] = {}
    grown = False
    found = common.find_pictures(images)
    earlier = Run.read(out)
    names = earlier.names_for(found)
    if not overwrite:
        check_folders(out, names, _identity(explainer, aim), _options(methods, max_forwards))
    for paths, explanation in run_over(explainer, found, methods, aim, batch_size, failed, max_forwards, workers):
        lens = lens_of(explainer, explanation.subject.batch) if report else None
        called, shared = [names[path] for path in paths], min(len(found), PER_PAGE)
        folders = save_explanation(explanation, out, called, lens, shared, moving, overwrite)
        grown = grown or any(one.blocks is not None for one in explanation.attributions.values())
        for index, (path, folder) in enumerate(zip(paths, folders, strict=True)):
            written[path] = folder.name
            common.tell(f"{path}  {explanation.subject.title(index)}  ->  {folder / 'sheet.png'}")
        write_run_manifest(out, earlier.with_results(written, failed))
    write_run_manifest(out, earlier.with_results(written, failed))
    if moving and written and not grown:
        common.say(
            "--video: none of these methods has a map a block, so there is no evolution to show; add daam or agcam"
        )
    if report and written:
        for page in write_report(out, common.say):
            common.tell(str(page))
    raise typer.Exit(1 if failed else 0)


def _identity(explainer: Explainer, aim: Target) -> dict[str, Any]:
    """What is known before any pass of what the results will have in common."""
    from vitscope.provenance import provenance_of

    known = provenance_of(explainer.anatomy, explainer.preprocessing, explainer.source, (0, 0))
    del known["grid"]
    return {**known, "target": explainer.in_words(aim)}


def _options(methods: str, max_forwards: int | None) -> dict[str, dict[str, Any]]:
    """The options of each method, by label."""
    from vitscope.methods import choose

    return {label: dataclasses.asdict(one) for label, one in choose(methods).within(max_forwards).methods.items()}  # type: ignore[call-overload]


class _Sizes(NamedTuple):
    """Pictures in a pass and in a part, and processes that read them."""

    batch: int
    part: int
    readers: int | None


def _store(
    explainer: Explainer,
    images: list[str],
    methods: str,
    aim: Target,
    out: Path,
    sizes: _Sizes,
    max_forwards: int | None,
    dtype: str,
    resume: bool,
    overwrite: bool,
    on: OnRay | None,
) -> None:
    """The raw maps as Parquet parts; ends the command."""
    from vitscope.bench import plan_maps, store_maps

    kind = cast('Literal["float32", "float16"]', dtype)
    found = common.find_pictures(images)
    plan = plan_maps(explainer, found, methods, aim, dtype=kind, max_forwards=max_forwards, part_size=sizes.part)
    with common.progress_bar() as progress:
        task = progress.add_task("explaining", total=plan.count)
        outcome = store_maps(
            plan,
            explainer,
            aim,
            out,
            batch_size=sizes.batch,
            readers=sizes.readers,
            resume=resume,
            overwrite=overwrite,
            engine=on,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
            say=common.say,
        )
    if outcome.failed:
        common.say(f"{outcome.failed} of {outcome.images} pictures failed; the column error in {out} says why")
    common.tell(str(out))
    raise typer.Exit(1 if outcome.failed else 0)
