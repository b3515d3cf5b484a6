"""A run that is killed: `python -m tests.bench.killed OUT KILLS SEED`, in a process of its own.

Each attempt is a forked child, killed at a random moment; this process imports torch and never computes, so that the
fork is safe. The last attempt is left alone. Prints how many were killed, and how many of these left some of the parts.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from vitscope import Explainer
from vitscope.bench import bench, make_plan, plan_maps, store_maps
from vitscope.targets import Predicted


def attempt(out: Path) -> None:
    """Go on with the run, or begin it."""
    explainer = Explainer("scenes")
    if out.name == "maps":
        desk = next(folder for folder in out.parents if (folder / "pictures").is_dir())
        pictures = sorted((desk / "pictures").glob("*.png"))
        plan = plan_maps(explainer, pictures, "cdam,attention", Predicted(), part_size=2)
        store_maps(plan, explainer, Predicted(), out, batch_size=2, resume=True)
        return
    plan = make_plan(
        explainer, "scenes:count=60", methods="cdam,attention,random", metrics="agcam,energy,curve", part_size=2
    )
    bench(plan, out, explainer=explainer, batch_size=2, resume=True)


def parts_of(out: Path) -> list[Path]:
    """The parts that are there."""
    return list((out / "parts").glob("part-*.parquet"))


def child(out: Path) -> int:
    """A process that makes an attempt."""
    pid = os.fork()
    if pid == 0:
        try:
            attempt(out)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    return pid


def main(out: Path, kills: int, seed: int) -> None:
    """See the module."""
    whole = out.parent / "whole" if out.name != "maps" else out.parent / "w" / "maps"
    began = time.monotonic()
    _, status = os.waitpid(child(whole), 0)
    assert status == 0
    longest, total = time.monotonic() - began, len(parts_of(whole))
    chance = random.Random(seed)
    killed, partly = 0, 0
    for _ in range(kills):
        pid, began, status = child(out), time.monotonic(), None
        # one in ten dies while it loads, the others some time after as many parts as are their share
        early = chance.random() < 0.1
        share = len(parts_of(out)) + chance.randint(1, max(1, total // kills))
        delay = chance.uniform(0, longest / 2 if early else 0.05)
        while status is None and (time.monotonic() - began < delay or (not early and len(parts_of(out)) < share)):
            if not early and len(parts_of(out)) < share:
                began = time.monotonic()
            done, code = os.waitpid(pid, os.WNOHANG)
            status = code if done else None
            time.sleep(0.001)
        if status is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            killed += 1
        parts = parts_of(out)
        partly += 0 < len(parts) < total
        for part in parts:
            pq.read_table(part)  # whole, whenever the kill came
    _, status = os.waitpid(child(out), 0)
    assert status == 0
    sys.stdout.write(f"{killed} {partly}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
