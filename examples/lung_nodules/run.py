"""The whole example: scans (made here, or your own), model, maps, what is measured, and a page of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from safetensors.torch import save_file

from examples.lung_nodules import page
from examples.lung_nodules.maps import Measured, explain, measure
from examples.lung_nodules.network import Recipe, train
from examples.lung_nodules.study import PAPER, SYNTHETIC, off_middle, read_study
from examples.lung_nodules.tree import write_tree
from vitscope.errors import DatasetError
from vitscope.save import prepare_folder, save_text

Say = Callable[[str], object]


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        patients: phantoms that are made.
        recipe: of the training.
    """

    patients: int = 200
    recipe: Recipe = field(default_factory=Recipe)


QUICK = Size(patients=14, recipe=Recipe(epochs=2))
"""Shows that all of it runs; its numbers mean nothing."""


def run(
    out: Path, root: Path | None, size: Size, limit: int | None = None, say: Say = lambda line: None
) -> page.Findings:
    """Make or read scans, train, explain, measure, and write all of it to `out`.

    Args:
        out: made where it is missing.
        root: a tree as TCIA lays out LIDC-IDRI, or None to make phantoms in `out`.
        size: how much is done.
        limit: of `root`, at most so many series.
        say: is told a line now and then.

    Returns:
        What was found; `index.html`, `results.md`, `results.json`, `maps.png` and `model.safetensors` are in `out`.

    Raises:
        DatasetError: the scans cannot be read, or are too few.
        VitscopeError: the folder cannot be written.
    """
    prepare_folder(out)
    clock, began = _Clock(), time.process_time()
    scans = root or write_tree(
        out / f"phantoms-{size.patients}-seed{size.recipe.seed}",
        size.patients,
        size.recipe.seed,
        progress=_now_and_then(say, f"of {size.patients} scans made"),
    )
    clock.lap("making the scans" if root is None else "")
    study = read_study(scans, limit, progress=lambda done, of: _now_and_then(say, f"of {of} series read")(done))
    for line in study.failures:
        say(f"left out: {line}")
    learned, tested = study.split()
    if not learned:
        raise DatasetError(f"{scans}: nodules of one patient only; give the scans of several, so that some are tested")
    clock.lap("reading them")
    biomarkers = SYNTHETIC if root is None else PAPER
    trained = train(learned, biomarkers, size.recipe, lambda epoch, loss: say(f"epoch {epoch}: loss {loss:.3f}"))
    clock.lap("training")
    maps = explain(trained, tested, progress=lambda done: say(f"{done} of {len(tested)} slices explained"))
    moved = off_middle(tested, size.recipe.seed)
    moved_maps = explain(trained, moved, ("malignancy",), lambda done: say(f"{done} of {len(moved)} off the middle"))
    found = page.Findings(
        study=study,
        learned=len(learned) // 3,
        tested=len(tested) // 3,
        recipe=size.recipe,
        trained=trained,
        scores=trained.scores(tested),
        maps=maps,
        measured=measure(maps),
        off_middle=page.OffMiddle(trained.scores(moved), moved_maps, measure(moved_maps)),
        synthetic=root is None,
        seconds={},
    )
    clock.lap("maps")
    found = replace(found, seconds=clock.laps | {"the processor": time.process_time() - began})
    write(found, out)
    return found


def write(found: page.Findings, out: Path) -> None:
    """The page, the tables, the numbers behind them, the picture and the model."""
    save_text(page.html(found), out / "index.html")
    save_text(page.markdown(found), out / "results.md")
    save_text(json.dumps(_numbers(found), indent=1), out / "results.json")
    page.figure(found).save(out / "maps.png")
    save_file(found.trained.explainer.anatomy.model.state_dict(), out / "model.safetensors")


def _numbers(found: page.Findings) -> dict[str, object]:
    return {
        "patients": len(found.study.patients),
        "nodules": {"learned": found.learned, "tested": found.tested},
        "left_out": list(found.study.left_out),
        "failures": list(found.study.failures),
        "recipe": asdict(found.recipe),
        "outputs": list(found.trained.names),
        "mean": found.trained.mean.tolist(),
        "spread": found.trained.spread.tolist(),
        "scores": asdict(found.scores),
        "maps": _estimates(found.measured),
        "off_middle": {"scores": asdict(found.off_middle.scores), "maps": _estimates(found.off_middle.measured)},
        "expected": page.holds(found) if found.synthetic else {},
        "seconds": found.seconds,
    }


def _estimates(m: Measured) -> dict[str, object]:
    parts = {"within": m.within, "near": m.near, "rim": m.rim, "calcium": m.calcium, "agreement": m.agreement}
    return {
        part: {" ".join(key).strip(): e and asdict(e) for key, values in by.items() for e in [page.estimate(values)]}
        for part, by in parts.items()
    }


class _Clock:
    """Seconds of each part."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Name the time since the last lap; "" does not keep it."""
        now = time.perf_counter()
        if name:
            self.laps[name] = now - self._last
        self._last = now


def _now_and_then(say: Say, what: str) -> Callable[[int], None]:
    def tell(done: int) -> None:
        if done % 25 == 0:
            say(f"{done} {what}")

    return tell
