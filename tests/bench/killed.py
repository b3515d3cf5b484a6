"""A run that is killed: `python -m tests.bench.killed OUT KILLS SEED`, in a process of its own.

Each attempt is a forked child, killed at a random moment; this process imports torch and never computes, so that the
fork is safe. The last attempt is left alone. Prints how many were killed, and how many times parts were there by then.
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
    pid, loading, status = child(whole), 0.0, None
    while status is None:
        done, code = os.waitpid(pid, os.WNOHANG)
        status = code if done else None
        if not loading and any((whole / "parts").glob("part-*")):
            loading = time.monotonic() - began
        time.sleep(0.005)
    assert status == 0
    working = time.monotonic() - began - loading
    chance = random.Random(seed)
    killed, partly = 0, 0
    for _ in range(kills):
        pid = child(out)
        # one in ten while it loads; of the others each does on average the share of the work that is its
        early = chance.random() < 0.1
        time.sleep(chance.uniform(0, loading) if early else loading + chance.uniform(0, 1.5 * working / kills))
        done, status = os.waitpid(pid, os.WNOHANG)
        if not done:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            killed += 1
        parts = list((out / "parts").glob("*.parquet"))
        partly += bool(parts)
        for part in parts:
            pq.read_table(part)  # whole, whenever the kill came
    _, status = os.waitpid(child(out), 0)
    assert status == 0
    sys.stdout.write(f"{killed} {partly}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
