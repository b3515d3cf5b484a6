"""What several commands share: options, the explainer they ask for, and the way through many images."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from vitscope.activation import Activation
from vitscope.defaults import GROUPS, PRECISIONS
from vitscope.errors import VitscopeError

if TYPE_CHECKING:
    from rich.progress import Progress

    from vitscope.explainer import Explainer
    from vitscope.models import Running
    from vitscope.targets import Target

Images = Annotated[list[str], typer.Argument(help="Pictures, or folders of pictures.", show_default=False)]
Model = Annotated[str, typer.Option("--model", "-m", help="A name, e.g. timm/vit_tiny_patch16_224, or a directory.")]
WEIGHTS_FILE = "A .safetensors, .pth or .bin file"
Weights = Annotated[
    Path | None,
    typer.Option("--weights", "-w", help=f"{WEIGHTS_FILE}; otherwise the published weights."),
]
WeightsKey = Annotated[
    str | None,
    typer.Option(
        "--weights-key",
        help="Which set of weights to use of a --weights file with several, e.g. state_dict; otherwise the averaged "
        "ones (EMA) before the raw ones.",
    ),
]
Methods = Annotated[
    str,
    typer.Option(
        "--methods",
        help="Names with commas between, options after a colon: daam,agcam:scores=softmax. For a group, whose methods "
        f"are left out where they do not apply: {GROUPS}.",
    ),
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        help="A class's index or name, 'A rather than B', 'probability of A', or a text for CLIP-like models; "
        "otherwise the predicted class.",
    ),
]
Bank = Annotated[
    Path | None,
    typer.Option(
        "--bank", help="A memory bank: explain what makes the picture like its neighbours there (of class --target)."
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option("--labels", help="Class names: one a line, an ImageNet synset file, JSON, or {0: 'tench', ...}."),
]
ActivationOption = Annotated[
    str | None,
    typer.Option(
        "--activation",
        help="What turns outputs into probabilities, instead of what the model declares: softmax, sigmoid or none.",
    ),
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps ...")]
Precision = Annotated[
    str,
    typer.Option(
        "--precision", help="Of the model's own passes: float32, bf16 or fp16. Maps are made in float32 all the same."
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Pictures in one pass.")]
Size = Annotated[
    str | None,
    typer.Option("--size", help="Instead of the model's own input size: 384, or 256x384 (height x width)."),
]
CropPct = Annotated[
    float | None, typer.Option("--crop-pct", help="Share of the resized picture's side that the crop keeps.")
]
CropMode = Annotated[str | None, typer.Option("--crop-mode", help="center, squash or border, as in timm.")]
Interpolation = Annotated[str | None, typer.Option("--interpolation", help="bilinear, bicubic ...")]
Mean = Annotated[str | None, typer.Option("--mean", help="Three numbers with commas between.")]
Std = Annotated[str | None, typer.Option("--std", help="Three numbers with commas between.")]
MaxForwards = Annotated[
    int | None,
    typer.Option(
        "--max-forwards", min=1, help="Forwards of a picture, at most, of each method that samples altered pictures."
    ),
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        "--memory-limit",
        help="What a pass may take beside model and pictures, e.g. 4GB; a batch that takes more goes in several.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def say(message: str) -> None:
    """One line on the error stream."""
    print(f"vitscope: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201


def tell(text: str) -> None:
    """A line on the output stream, as it is."""
    print(text)  # noqa: T201


def tell_json(content: Any) -> None:
    """JSON on the output stream."""
    tell(json.dumps(content, indent=2, ensure_ascii=False))


def wait_passively() -> None:
    """Let torch's threads sleep while they wait for each other, unless the environment says otherwise.

    Spinning threads hold cores that the awaited thread may need: beside a busy process a pass then takes several times
    as long. OpenMP reads this when torch is imported, so it is for commands, which import torch afterwards.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def bounded(memory_limit: str | None) -> str | None:
    """The limit as it is; with one, the C library of Linux gives large blocks back as soon as they are free.

    It would keep those up to 32 MiB, by and by twice of what the tensors take (M_MMAP_THRESHOLD of mallopt).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if memory_limit and sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 2**16)
    return memory_limit


def check_choice(option: str, value: str | None, known: Sequence[str]) -> None:
    """Raise VitscopeError where an option has another value than these."""
    if value is not None and value not in known:
        raise VitscopeError(f"{option} {value}: give {' or '.join(known)}")


def check_resume(resume: bool, overwrite: bool) -> None:
    """Raise VitscopeError where a run shall go on, and shall be deleted."""
    if resume and overwrite:
        raise VitscopeError("--resume goes on with a run and --overwrite deletes it; give one of them")


def running_of(precision: str, channels_last: bool = False, compiled: bool = False) -> Running:
    """How the model is run, by these options.

    Raises:
        VitscopeError: an unknown precision.
    """
    check_choice("--precision", precision, PRECISIONS)
    from vitscope.models import Running

    return Running(cast("Any", precision), channels_last, compiled)


def activation_of(activation: str | None) -> Activation | None:
    """The activation that --activation names.

    Raises:
        VitscopeError: an unknown one.
    """
    check_choice("--activation", activation, get_args(Activation))
    return cast("Activation | None", activation)


def preprocessing_fields(
    size: str | None,
    crop_pct: float | None,
    crop_mode: str | None,
    interpolation: str | None,
    mean: str | None,
    std: str | None,
) -> dict[str, Any]:
    """The overrides that were given, in the form that `Preprocessing.of_model` takes."""
    fields = {
        "size": None if size is None else _numbers(size.lower(), "x", (1, 2), int, "--size"),
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
        "interpolation": interpolation,
        "mean": None if mean is None else _numbers(mean, ",", (3,), float, "--mean"),
        "std": None if std is None else _numbers(std, ",", (3,), float, "--std"),
    }
    return {key: value for key, value in fields.items() if value is not None}


def _numbers(text: str, separator: str, counts: Sequence[int], kind: type, option: str) -> tuple[Any, ...]:
    try:
        numbers = tuple(kind(part) for part in text.split(separator))
    except ValueError:
        numbers = ()
    if len(numbers) not in counts:
        raise VitscopeError(f"{option} {text}: give {' or '.join(map(str, counts))} numbers separated by '{separator}'")
    return numbers * 2 if counts == (1, 2) and len(numbers) == 1 else numbers


def check_use(
    explainer: Explainer, methods: str, target: str | None, bank: Path | None, max_forwards: int | None = None
) -> Target:
    """Hold methods and target, or the memory bank, against the model before the first picture is opened.

    Raises:
        VitscopeError: an unknown method or class, too small a budget, or no method that is defined for the model.
    """
    from vitscope.bank import check_fits
    from vitscope.methods import choose
    from vitscope.targets import Class, Contrast, MemoryBank, Neighbours, Predicted, as_target

    asked = choose(methods).within(max_forwards)
    chosen = asked.methods
    reasons = [explainer.why_not(label, method) for label, method in chosen.items()]
    if all(reasons):
        raise VitscopeError(reasons[0])
    if bank is not None:
        known = MemoryBank.load(bank)
        check_fits(explainer, known)
        wanted = as_target(target, known.names)
        if type(wanted) not in (Predicted, Class):
            raise VitscopeError(f"--target {target}: with a memory bank the target can only be one of its classes")
        label = wanted.index if isinstance(wanted, Class) and isinstance(wanted.index, int) else None
        return Neighbours(known, min(20, len(known)), label=label)
    aim = explainer.target(target)
    outputs = explainer.anatomy.outputs
    named = [method for label, method in chosen.items() if label not in asked.grouped]
    of_class = target is not None or any(method.facts.class_specific for method in named)
    if not outputs and of_class and isinstance(aim, Predicted):
        way = (
            "a text as --target, or a memory bank with --bank"
            if explainer.anatomy.texts
            else "a memory bank with --bank"
        )
        raise VitscopeError(f"{explainer.anatomy.name} has no classifier, so that it has no classes; give {way}")
    if outputs and isinstance(aim, Class | Contrast):
        aim.check(outputs)
    return aim


def find_pictures(images: Sequence[str]) -> list[str]:
    """The pictures named, with every folder replaced by the pictures in it."""
    from vitscope.datasets.labelled import PICTURES

    found: list[str] = []
    for image in images:
        if Path(image).is_dir():
            inside = sorted(str(p) for p in Path(image).iterdir() if p.suffix.lower() in PICTURES)
            found += inside or [image]  # an empty folder stays, to be named as unreadable
        else:
            found.append(image)
    return found


def progress_bar(disable: bool = False) -> Progress:
    """A bar on the error stream that goes away when it is done; none where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    hidden = disable or not console.is_terminal  # where it would leave an empty line
    return Progress(*columns, console=console, transient=True, disable=hidden, redirect_stdout=sys.stdout.isatty())
