"""The options of commands whose parts are computed here, or by Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vitscope.cli import common
from vitscope.errors import VitscopeError

if TYPE_CHECKING:
    from vitscope.bench import OnRay

Engine = Annotated[str, typer.Option("--engine", help="local, or ray: several workers, here or on a cluster.")]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        help="Processes that read pictures ahead of the model, 0 for none; otherwise as the machine allows. "
        "With --engine ray: those that have the model each.",
    ),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option("--gpus-per-worker", min=0, help="With --engine ray: 0.5 for two workers a GPU."),
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="With --engine ray: a cluster's; auto on its head."),
]

PartSize = Annotated[
    int,
    typer.Option("--part-size", min=1, help="Images in a part, which is written at once: what an interruption costs."),
]


def engine_of(engine: str, workers: int | None, gpus: float | None, address: str | None, device: str) -> OnRay | None:
    """Ray as it was asked for; None for this process.

    Raises:
        VitscopeError: an unknown engine, options of the other one, or Ray is not installed.
    """
    common.check_choice("--engine", engine, ("local", "ray"))
    if engine == "ray":
        from vitscope.bench import OnRay

        return OnRay(1 if workers is None else workers, gpus, address, device)
    if (gpus, address) != (None, None):
        raise VitscopeError("--gpus-per-worker and --address are for Ray; add --engine ray")
    return None
