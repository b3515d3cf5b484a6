"""`vitscope bank build` and `vitscope bank info`: memory banks, for models without a classifier."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from vitscope.cli import common

bank = typer.Typer(help="Memory banks: features of labelled pictures, for models without a classifier.")


@bank.command("build")
def build(
    model: common.Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, .safetensors.")],
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="scenes, or folder.")] = "folder",
    root: Annotated[Path | None, typer.Option("--root", help="A folder with a folder of pictures a class.")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most so many pictures, evenly spread.")
    ] = None,
    weights: common.Weights = None,
    weights_key: common.WeightsKey = None,
    device: common.Device = "cpu",
    batch_size: common.BatchSize = 32,
    memory_limit: common.MemoryLimit = None,
    size: common.Size = None,
    crop_pct: common.CropPct = None,
) -> None:
    """Write the features of labelled pictures to one file; an interrupted run goes on where it was."""
    from vitscope.bank import build_bank
    from vitscope.datasets.labelled import labelled
    from vitscope.explainer import Explainer

    pictures = labelled(dataset, root, limit)
    fields = common.preprocessing_fields(size, crop_pct, None, None, None, None)
    within = common.bounded(memory_limit)
    explainer = Explainer(
        model, weights, preprocessing=fields, device=device, memory_limit=within, weights_key=weights_key
    )
    with common.progress_bar() as progress:
        task = progress.add_task("reading features", total=len(pictures))
        built = build_bank(explainer, pictures, out, batch_size, lambda done: progress.advance(task, done))
    for reason in built.failed.values():
        common.say(reason)
    common.tell(f"{out}: {len(built.bank)} pictures of {len(built.bank.names)} classes")
    raise typer.Exit(1 if built.failed else 0)


@bank.command("info")
def info(
    file: Annotated[str, typer.Argument(help="A memory bank's file; scenes-ssl is the bundled one.")],
    json: common.Json = False,
) -> None:
    """Tell what a memory bank holds, and how well its own pictures find their class."""
    from vitscope.targets import MemoryBank

    found = MemoryBank.load(file)
    closeness, right = found.typical()
    counts = Counter(found.labels.tolist())
    asked = found.facts.get("pictures", len(found))
    facts = {
        **found.facts,
        "pictures": len(found),
        **({"pictures_not_read": asked - len(found)} if asked != len(found) else {}),
        "width": found.features.shape[1],
        "classes": {found.names[label]: counts[label] for label in sorted(counts)},
        "dtype": str(found.features.dtype).removeprefix("torch."),
        "leave_one_out_top1": round(right, 4),
        f"cosine_to_{min(20, len(found) - 1)}_nearest_of_99_percent_at_least": round(closeness, 4),
    }
    if json:
        common.tell_json(facts)
        return
    for key, value in facts.items():
        text = ", ".join(f"{name} {count}" for name, count in value.items()) if isinstance(value, dict) else value
        common.tell(f"{key.replace('_', ' '):<40} {text}")
