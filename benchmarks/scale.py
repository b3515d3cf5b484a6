"""A long run, piece by piece: images a second, bytes written, memory over time: `python benchmarks/scale.py --help`.

    python benchmarks/scale.py run rows OUT --count 20000 --seconds 280      # again until it says that it is complete
    python benchmarks/scale.py run maps OUT --count 20000 --engine ray --workers 2
    python benchmarks/scale.py compare OUT OTHER                             # whether two runs' rows are the same
    python benchmarks/scale.py tell OUT...                                   # what was measured, as JSON

`rows` is `vitscope bench` on drawn scenes; `maps` is `vitscope explain FOLDER --store parquet` on the same scenes as
files. Each call runs the command with --resume for at most --seconds and then interrupts it, so that a run of hours can
be made in pieces. Beside it are sampled the resident memory of the command and of its largest worker, and the CPU time
of all its processes, which hangs little on what else the machine does. The times at which parts were finished are those
of their files: the rate is of the images between the first part of a piece and its last, and what lies before the first
part is start-up. Linux only, for /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from PIL import Image

from vitscope.bench.store import MANIFEST, parts_in
from vitscope.datasets import Scenes

EVERY = 1.0
"""Seconds between two samples of the memory."""

LOG = "pieces.jsonl"

DRAWING = 7
"""Seed of the scenes."""


def main() -> None:
    arguments = _arguments()
    if arguments.do == "run":
        piece = run(arguments)
        print(json.dumps({key: value for key, value in piece.items() if key != "memory"}))
        sys.exit(0 if piece["complete"] else 3)
    if arguments.do == "compare":
        found = differing(*arguments.folders)
        print(found or "the same rows")
        sys.exit(1 if found else 0)
    print(json.dumps([measured(folder) for folder in arguments.folders], indent=1))


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """One piece: the command until it ends or its time is over; what was seen is added to the folder's log."""
    (out,) = arguments.folders
    out.mkdir(parents=True, exist_ok=True)
    before = _finished(out)
    words = command(arguments, out)
    began = time.time()
    process = subprocess.Popen(
        [sys.executable, "-m", "vitscope", *words], stderr=subprocess.DEVNULL, preexec_fn=_interruptible
    )
    memory = []
    while process.poll() is None and time.time() - began < arguments.seconds:
        memory.append([round(time.time() - began, 1), len(_finished(out)), *seen(process.pid)])
        time.sleep(EVERY)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)  # Ray's processes are ended on the way out
    process.wait()
    there = json.loads((out / MANIFEST).read_text()) if (out / MANIFEST).is_file() else {}
    after = _finished(out)
    piece = {
        "command": shlex.join(["vitscope", *words]),
        "engine": arguments.engine,
        "workers": arguments.workers if arguments.engine == "ray" else 1,
        "device": arguments.device,
        "threads": os.environ.get("OMP_NUM_THREADS", str(torch.get_num_threads())),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "part": arguments.part_size,
        "seconds": time.time() - began,
        "finished": sorted(round(when - began, 2) for name, when in after.items() if name not in before),
        "memory": memory,
        "complete": there.get("status") == "complete" and process.returncode == 0,
        "exit": process.returncode,
    }
    with (out / LOG).open("a") as file:
        file.write(json.dumps(piece) + "\n")
    return piece


def _interruptible() -> None:
    """A shell that puts this script in the background has it, and what it starts, ignore interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def command(arguments: argparse.Namespace, out: Path) -> list[str]:
    """The words after `vitscope`."""
    shared = ["--model", arguments.model, "--out", str(out), "--batch-size", str(arguments.batch_size)]
    shared += ["--part-size", str(arguments.part_size), "--resume", "--engine", arguments.engine]
    shared += ["--device", arguments.device, "--methods", arguments.methods or METHODS[arguments.what]]
    if arguments.engine == "ray":
        shared += ["--workers", str(arguments.workers)]
    if arguments.what == "rows":
        source = f"scenes:count={arguments.count},drawing={DRAWING}"
        return ["bench", "--dataset", source, "--metrics", arguments.metrics, *shared]
    folder = drawn(arguments.pictures, arguments.count)
    return ["explain", str(folder), "--store", "parquet", "--dtype", arguments.dtype, *shared]


METHODS = {"rows": "center,attention,cdam", "maps": "daam,agcam,cdam"}


def drawn(home: Path, count: int) -> Path:
    """A folder of so many scenes as PNG, made where it is missing."""
    folder = home / f"scenes-{count}"
    folder.mkdir(parents=True, exist_ok=True)
    if len(os.listdir(folder)) < count:
        for index, scene in enumerate(Scenes(count, seed=DRAWING)):
            Image.fromarray(scene.image).save(folder / f"{index:07d}.png", compress_level=1)
    return folder


def seen(root: int) -> tuple[int, int, float]:
    """MiB in memory of a process and of the largest that it has started, at any depth; the CPU seconds of them all."""
    sizes, ticks = {}, 0
    for process in _family(root):
        try:
            words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        sizes[process] = int(words[21]) * os.sysconf("SC_PAGE_SIZE") >> 20
        ticks += int(words[11]) + int(words[12])
    return sizes.pop(root, 0), max(sizes.values(), default=0), round(ticks / os.sysconf("SC_CLK_TCK"), 2)


def _family(root: int) -> Iterator[int]:
    yield root
    try:
        threads = os.listdir(f"/proc/{root}/task")
        lines = [Path(f"/proc/{root}/task/{thread}/children").read_text() for thread in threads]
    except OSError:
        return
    for child in {int(word) for line in lines for word in line.split()}:
        yield from _family(child)


def _finished(out: Path) -> dict[str, float]:
    """Part -> when it was finished."""
    found = {}
    for file in (out / "parts").glob("part-*.parquet"):
        found[file.name] = file.stat().st_mtime
    return found


def measured(folder: Path) -> dict[str, Any]:
    """What the pieces of a run tell together."""
    pieces = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    last = pieces[-1]
    whole = [piece for piece in pieces if len(piece["finished"]) > 1]
    images = sum(last["part"] * (len(piece["finished"]) - 1) for piece in whole)
    working = sum(piece["finished"][-1] - piece["finished"][0] for piece in whole)
    parts = parts_in(folder)
    tables = [pq.read_metadata(part) for part in parts]
    rows = sum(table.num_rows for table in tables)
    columns: dict[str, int] = {}
    for table in tables:
        for group in range(table.num_row_groups):
            for place in range(table.num_columns):
                column = table.row_group(group).column(place)
                name = column.path_in_schema.split(".")[0]
                columns[name] = columns.get(name, 0) + column.total_compressed_size
    memory = [sample for piece in whole for sample in piece["memory"] if sample[1]]
    rate = images / working if working else float("nan")
    return {
        "command": " ".join("OUT" if word == str(folder) else word for word in last["command"].split()),
        **{key: last[key] for key in ("engine", "workers", "device", "threads", "machine", "part")},
        "complete": last["complete"],
        "parts": len(parts),
        "pieces": len(pieces),
        "rows": rows,
        "bytes": sum(part.stat().st_size for part in parts),
        "bytes_of_columns": columns,
        "images_per_second": rate,
        "quartiles": _quartiles(whole),
        "cpu_s_an_image": _cpu(whole),
        "start_s": statistics.median(piece["finished"][0] for piece in whole) - last["part"] / rate * last["workers"],
        "end_s": last["seconds"] - last["finished"][-1] if last["finished"] else None,
        "seconds": sum(piece["seconds"] for piece in pieces),
        "memory_mib": {name: _thirds([sample[place] for sample in memory]) for name, place in PLACES.items()},
    }


WINDOW = 8
"""Parts from whose first to last a rate is taken, for their spread."""


def _quartiles(pieces: Sequence[dict[str, Any]]) -> list[float]:
    """Of the images a second over windows of some parts: what else the machine did shows in them."""
    rates = []
    for piece in pieces:
        ends = piece["finished"]
        for first, last in zip(ends[::WINDOW], ends[WINDOW::WINDOW], strict=False):
            rates.append(WINDOW * piece["part"] / (last - first))
    return statistics.quantiles(rates, n=4)[::2] if len(rates) > 1 else []


def _cpu(pieces: Sequence[dict[str, Any]]) -> float | None:
    """CPU seconds an image, of all processes together, while parts are being made; None where none was sampled."""
    spent = images = 0.0
    for piece in pieces:
        samples = [sample for sample in piece["memory"] if len(sample) > CPU]
        made = [sample for sample in samples if samples[0][1] < sample[1] < samples[-1][1]]
        if len(made) > 1:
            spent += made[-1][CPU] - made[0][CPU]
            images += (made[-1][1] - made[0][1]) * piece["part"]
    return spent / images if images else None


CPU = 4
"""Its place in a sample, behind the memory's."""

PLACES = {"command": 2, "worker": 3}


def _thirds(values: Sequence[int]) -> dict[str, int]:
    """The highest in each third of the run, in time: a leak would let them grow."""
    cuts = [round(len(values) * part / 3) for part in range(4)]
    names = ("first third", "second third", "last third")
    return {name: max(values[a:b], default=0) for name, a, b in zip(names, cuts, cuts[1:], strict=False)}


def differing(one: Path, other: Path) -> str:
    """In what the rows of two runs differ, or ""."""
    mine, theirs = ({part.name: part for part in parts_in(folder)} for folder in (one, other))
    if mine.keys() != theirs.keys():
        return f"{len(mine)} parts and {len(theirs)}: {sorted(mine.keys() ^ theirs.keys())[:3]} are not in both"
    for name, part in mine.items():
        if not pq.read_table(part).equals(pq.read_table(theirs[name])):
            return f"{name}: its rows differ"
    return ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    does = parser.add_subparsers(dest="do", required=True)
    one = does.add_parser("run", help="a piece of a run")
    one.add_argument("what", choices=("rows", "maps"))
    one.add_argument("folders", nargs=1, type=Path, metavar="OUT")
    one.add_argument("--count", type=int, default=20_000, help="scenes")
    one.add_argument("--model", default="scenes")
    one.add_argument("--methods", help=f"otherwise {METHODS}")
    one.add_argument("--metrics", default="energy", help="for rows")
    one.add_argument("--dtype", default="float16", help="for maps")
    one.add_argument("--engine", choices=("local", "ray"), default="local")
    one.add_argument("--workers", type=int, default=2, help="with ray")
    one.add_argument("--device", default="cpu")
    one.add_argument("--batch-size", type=int, default=16)
    one.add_argument("--part-size", type=int, default=64)
    one.add_argument("--seconds", type=float, default=float("inf"), help="of this piece")
    one.add_argument("--pictures", type=Path, default=Path("out/pictures"), help="where maps find or draw their scenes")
    for name, what in (("compare", "whether two runs have the same rows"), ("tell", "what runs measured, as JSON")):
        other = does.add_parser(name, help=what)
        other.add_argument("folders", nargs=2 if name == "compare" else "+", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
