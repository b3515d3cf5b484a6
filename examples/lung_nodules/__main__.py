"""`python -m examples.lung_nodules --out out/lung`: see README.md beside this file."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from examples.lung_nodules.run import QUICK, Size, run
from vitscope.errors import VitscopeError


def main(arguments: list[str] | None = None) -> int:
    """Run the example; 0, or 1 where some scans could not be read, or 2 where nothing could be done."""
    parser = argparse.ArgumentParser(prog="python -m examples.lung_nodules", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/lung"), help="folder for the page and the phantoms")
    parser.add_argument("--root", type=Path, help="scans of LIDC-IDRI's layout, in place of phantoms")
    parser.add_argument("--limit", type=int, help="at most so many series of --root")
    parser.add_argument("--patients", type=int, help="so many phantoms")
    parser.add_argument("--epochs", type=int, help="so many passes over the pictures")
    parser.add_argument("--frozen", action="store_true", help="the paper's way: train the linear head alone")
    parser.add_argument("--quick", action="store_true", help="a few phantoms, to see that all of it runs")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    for name in ("limit", "patients", "epochs"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: give 1 or more")
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: give 0 or more")
    size = QUICK if args.quick else Size()
    recipe = dataclasses.replace(size.recipe, seed=args.seed, epochs=args.epochs or size.recipe.epochs)
    if args.frozen:
        recipe = dataclasses.replace(recipe, frozen=True, depth=12, epochs=args.epochs or 3)
    size = Size(args.patients or size.patients, recipe)
    try:
        found = run(args.out, args.root, size, args.limit, _say)
    except VitscopeError as error:
        _say(str(error))
        return 2
    s = found.scores
    _tell(f"malignancy: AUC {s.auc:.3f}, accuracy {s.accuracy:.3f} on {s.views} views of {s.nodules} nodules")
    _tell(str((args.out / "index.html").resolve()))
    return 1 if found.study.failures else 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
