"""`vitscope flow`: where in depth the evidence arises, and whether that predicts what a block is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitscope.cli import common
from vitscope.errors import VitscopeError

if TYPE_CHECKING:
    from vitscope.flow import Flow


def flow(
    images: common.Images,
    model: common.Model,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A diagram to write, .png.")] = None,
    weights: common.Weights = None,
    weights_key: common.WeightsKey = None,
    method: Annotated[str, typer.Option("--method", help="One that gives a map a block: daam, agcam.")] = "daam",
    target: common.TargetOption = None,
    bank: common.Bank = None,
    class_row: Annotated[
        bool, typer.Option("--class-row", help="Leave out the class token's attention alone, not all tokens'.")
    ] = False,
    labels: common.Labels = None,
    activation: common.ActivationOption = None,
    device: common.Device = "cpu",
    precision: common.Precision = "float32",
    size: common.Size = None,
    json: common.Json = False,
) -> None:
    """Read the flow of evidence over the blocks, and hold it against what each block's attention is worth.

    Of each block: its share of the accumulated map; the drop of the explained output where the block's attention is
    left out; and the agreement, the rank correlation of the block's map with the whole.
    """
    if out is not None and out.suffix.lower() != ".png":
        raise VitscopeError(f"--out {out}: the diagram is written as a .png file; give a name that ends so")
    fields = common.preprocessing_fields(size, None, None, None, None, None)
    applied = common.activation_of(activation)
    running = common.running_of(precision)

    from vitscope.explainer import Explainer
    from vitscope.flow import attention_flow
    from vitscope.methods import as_method

    explainer = Explainer(
        model,
        weights,
        labels=labels,
        activation=applied,
        preprocessing=fields,
        device=device,
        running=running,
        weights_key=weights_key,
    )
    as_method(method)  # one, not a group
    aim = common.check_use(explainer, method, target, bank)
    flows: list[Flow] = []
    failed: dict[str, str] = {}
    paths = common.find_pictures(images)
    with common.progress_bar(disable=len(paths) < 2) as progress:
        task = progress.add_task("reading the flow", total=len(paths))
        for path in paths:
            try:
                flows.append(attention_flow(explainer, path, method, aim, "read" if class_row else "all"))
            except VitscopeError as error:
                failed[path] = str(error)
                common.say(f"{path}: {error}" if path not in str(error) else str(error))
            progress.advance(task)
    if flows:
        _report(flows, method, class_row, out, json)
    raise typer.Exit(1 if failed else 0)


def _report(flows: list[Flow], method: str, class_row: bool, out: Path | None, json: bool) -> None:
    import numpy as np
    import torch

    from vitscope.bench import Estimate
    from vitscope.save import save_picture
    from vitscope.view.flow import flow_chart

    share, drop, agreement = (
        torch.cat([getattr(one, name) for one in flows]).double().numpy() for name in ("share", "drop", "agreement")
    )
    half, correlation = (torch.cat([getattr(one, name) for one in flows]).tolist() for name in ("half", "correlation"))
    known = [value for value in correlation if value == value]
    without = "the class token's attention" if class_row else "the block's attention"
    facts: dict[str, Any] = {
        "method": method,
        "images": len(half),
        "left_out": without,
        "half_of_the_evidence_after_blocks": vars(Estimate.of(half)),
        "rank_correlation_of_share_and_drop": vars(Estimate.of(known)) if known else None,
        "blocks": [
            {"block": block + 1, "share": float(a), "drop": float(b), "agreement": None if np.isnan(c) else float(c)}
            for block, (a, b, c) in enumerate(
                zip(share.mean(0), drop.mean(0), np.ma.masked_invalid(agreement).mean(0).filled(np.nan), strict=True)
            )
        ],
    }
    if json:
        common.tell_json(facts)
    else:
        _print(facts)
    if out is not None:
        save_picture(flow_chart(share, drop, agreement, f"{method}, {len(half)} pictures", without), out)
        common.tell(str(out))


def _print(facts: dict[str, Any]) -> None:
    common.tell(f"{'block':>5} {'share':>8} {'drop':>9} {'agreement':>10}")
    for row in facts["blocks"]:
        agreement = "" if row["agreement"] is None else f"{row['agreement']:.3f}"
        common.tell(f"{row['block']:>5} {row['share']:>8.3f} {row['drop']:>9.3f} {agreement:>10}")
    half, correlation = facts["half_of_the_evidence_after_blocks"], facts["rank_correlation_of_share_and_drop"]
    common.tell(f"blocks until half of the evidence is there: {_interval(half)}")
    if correlation is not None:
        common.tell(f"rank correlation of share and drop without {facts['left_out']}: {_interval(correlation)}")


def _interval(estimate: dict[str, Any]) -> str:
    if estimate["n"] == 1:
        return "{mean:.2f} (1 picture)".format(**estimate)
    return "{mean:.2f} [{low:.2f}, {high:.2f}] ({n} pictures)".format(**estimate)
