"""vitscope beside the libraries that make the same maps: `python benchmarks/peers.py --help`.

Each library runs in an environment and a process of its own, on the same weights, pictures, classes and threads. For
each method in turn, the plain forward, vitscope's call and each peer's are run once a round, in an order shuffled by
the round's number; a cost is the median over rounds of a call's time over the same round's forward. Peak memory is
that of a fresh process during one call, over its own plain forward's. The maps are compared too (Spearman's rank
correlation with vitscope's, mean over pictures), so that the times are those of the same thing.

Results gather in a JSON file, from as many runs as one likes; `--show` prints it as a table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, it is in no package

import numpy as np  # noqa: E402
import torch  # noqa: E402
from benchmarks.cost import measure  # noqa: E402
from benchmarks.peer_calls import CALLS, TWINS  # noqa: E402
from benchmarks.peer_environments import OURS, NotInstalledError, python_of  # noqa: E402
from benchmarks.peer_table import Row, agreement, merged, table  # noqa: E402
from benchmarks.peer_worker import build  # noqa: E402

from vitscope.errors import VitscopeError  # noqa: E402

SHARED = tuple(name for name in CALLS["vitscope"] if any(name in CALLS[who] for who in CALLS if who != "vitscope"))


class PeerError(VitscopeError):
    """A call of a library failed; the row says why."""


class Process:
    """A worker: see `benchmarks/peer_worker.py`."""

    def __init__(self, who: str, python: str, order: Mapping[str, Any], log: Path) -> None:
        threads = str(order["threads"])
        home = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TQDM_DISABLE": "1"}
        if order.get("memory"):  # freed blocks go back to the system, so that the high-water mark is the call's own
            home |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
        path = [str(ROOT), *([str(ROOT / "src")] if who in OURS else [])]
        home["PYTHONPATH"] = os.pathsep.join(path)
        with log.open("a") as noise:
            self.process = subprocess.Popen(
                [python, "-m", "benchmarks.peer_worker", who, json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=noise,
                text=True,
                env=home,
            )
        self.log = log

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """One order, carried out.

        Raises:
            PeerError: with the library's own message.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"do": do, **order}) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise PeerError(f"the process ended; {self.log.read_text().strip().splitlines()[-1:]}")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise PeerError(answer["failed"])
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


class Crew:
    """The workers of one model and batch, started when first asked for."""

    def __init__(self, folder: Path, environments: Path, arguments: argparse.Namespace, batch: int) -> None:
        self.folder, self.environments, self.batch = folder, environments, batch
        images = folder / f"images{batch}.npy"
        self.order = {
            "name": arguments.model,
            "size": arguments.size,
            "images": str(images),
            "weights": {twin: str(folder / f"weights-{twin}.pt") for twin in ("", *TWINS.values())},
            "threads": arguments.threads,
            "samples": arguments.samples,
            "frozen": arguments.frozen,
        }
        side = build("", arguments.model, arguments.size).patch_embed.img_size
        np.save(images, torch.randn(batch, 3, *side, generator=torch.Generator().manual_seed(1)).numpy())
        self.workers: dict[tuple[str, bool], Process] = {}
        self.versions: dict[str, str] = {}

    def weights(self, twin: str) -> None:
        """Write the weights that all workers load."""
        file = Path(self.order["weights"][twin])
        if not file.exists():
            torch.save(build(twin, self.order["name"], self.order["size"]).state_dict(), file)

    def worker(self, who: str, memory: bool = False) -> Process:
        """The process that runs a library's calls, or the one that measures their memory.

        Raises:
            PeerError: the library cannot be installed.
        """
        if (who, memory) not in self.workers:
            try:
                python, self.versions[who] = python_of(who, self.environments)
            except NotInstalledError as error:
                raise PeerError(f"not installed: {error}") from error
            self.workers[who, memory] = Process(
                who, python, self.order | {"memory": memory}, self.folder / f"{who}.log"
            )
        return self.workers[who, memory]

    def __getitem__(self, who: str) -> Process:
        return self.worker(who)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


def main() -> None:
    arguments = _arguments()
    rows: list[Row] = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else []
    if arguments.show:
        print(table(sorted((row for row in rows if row["batch"] in arguments.batch), key=_place)))
        return
    with tempfile.TemporaryDirectory() as name:
        for batch in arguments.batch:
            with contextlib.closing(Crew(Path(name), arguments.env.expanduser(), arguments, batch)) as crew:
                for method in arguments.methods:
                    found = rows_of(method, crew, arguments)
                    print(table(found), flush=True)
                    rows = merged(rows, found)
                    if arguments.json:
                        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def rows_of(method: str, crew: Crew, arguments: argparse.Namespace) -> list[Row]:
    """All that is measured of one method: a row for each library that has it."""
    crew.weights(TWINS.get(method, ""))
    whos = [who for who in CALLS if method in CALLS[who] and who in arguments.who]
    rows = {
        who: {
            "model": arguments.model + ("" if not TWINS.get(method) else f" ({TWINS[method]})"),
            "size": arguments.size,
            "threads": arguments.threads,
            "frozen": arguments.frozen,
            "batch": crew.batch,
            "method": method,
            "classes": arguments.classes,
            "samples": arguments.samples if _samples(method) else None,
            "who": who,
        }
        for who in whos
    }
    targets = targets_of(crew["vitscope"].ask("predict", method=method)["classes"], arguments.classes)
    if arguments.measure != "memory":
        for who, found in timed(method, whos, crew, targets, arguments.rounds).items():
            rows[who] |= found
    if arguments.measure != "time":
        for who in whos:
            rows[who] |= highest(method, who, crew, targets)
    for who in whos:
        rows[who]["version"] = crew.versions.get(who, "")
    return list(rows.values())


def targets_of(predicted: Sequence[int], classes: int) -> list[list[int]]:
    """The predicted class of each picture; of more targets, the classes that follow it."""
    return [[(label + step) % 1000 for label in predicted] for step in range(classes)]


def timed(
    method: str, whos: Sequence[str], crew: Crew, targets: list[list[int]], rounds: int
) -> dict[str, dict[str, Any]]:
    """Costs in forwards, interleaved over the processes, and agreement."""

    def job(who: str) -> dict[str, Any]:
        return {"worker": crew[who], "do": "run", "method": method, "targets": targets}

    def seconds(order: Mapping[str, Any]) -> float:
        rest = {name: value for name, value in order.items() if name not in ("worker", "do")}
        return float(order["worker"].ask(order["do"], **rest)["seconds"])

    found: dict[str, dict[str, Any]] = {}
    jobs = {}
    for who in whos:
        try:
            jobs[who] = job(who) | {"save": str(crew.folder / f"{who}.npy")}
            (crew.folder / f"{who}.npy").unlink(missing_ok=True)
        except PeerError as error:
            found[who] = {"failed": str(error)}
    plain = {"worker": crew["vitscope"], "do": "forward", "method": method}
    costs, forward = measure(plain, jobs, rounds, clock=seconds)  # type: ignore[arg-type]
    for who, cost in costs.items():
        found[who] = dict(cost)
        if "failed" not in cost:
            found[who] |= {"forward_s": forward, "images_per_s": crew.batch / float(cost["seconds"])}
            found[who]["correlation"] = agreement(crew.folder / f"{who}.npy", crew.folder / "vitscope.npy")
    return found


def highest(method: str, who: str, crew: Crew, targets: list[list[int]]) -> dict[str, Any]:
    """Peak megabytes of one call over those of a plain forward, in a process of its own."""
    try:
        found = crew.worker(who, memory=True).ask("memory", method=method, targets=targets)
    except PeerError as error:
        return {"failed": str(error)}
    return {"peak_mb": (found["call"] - found["forward"]) / 1e6, "forward_mb": found["forward"] / 1e6}


def _place(row: Row) -> tuple[Any, ...]:
    return row["model"], row["batch"], row["classes"], SHARED.index(row["method"]), list(CALLS).index(row["who"])


def _samples(method: str) -> bool:
    return method in ("smooth_cdam", "integrated_cdam", "integrated_gradients", "smoothgrad")


def _arguments() -> argparse.Namespace:
    def names(known: Sequence[str]) -> Any:
        def read(text: str) -> Iterator[str] | list[str]:
            found = text.split(";") if ";" in text or text in known else text.split(",")
            for name in found:
                if name not in known:
                    raise argparse.ArgumentTypeError(f"'{name}' is not one of {'; '.join(known)}")
            return found

        return read

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="a timm name; weights are random")
    parser.add_argument("--size", type=int, help="input size in pixels, where it differs from the model's own")
    parser.add_argument("--batch", type=lambda text: [int(one) for one in text.split(",")], default=[1, 8, 32])
    parser.add_argument("--methods", type=names(SHARED), default=list(SHARED), help="separated by , or ;")
    parser.add_argument("--who", type=names(list(CALLS)), default=list(CALLS))
    parser.add_argument("--classes", type=int, default=1, help="targets of each picture")
    parser.add_argument("--samples", type=int, default=50, help="of methods that sample, on all sides")
    parser.add_argument("--frozen", action="store_true", help="parameters take no gradients, which spares peers work")
    parser.add_argument("--measure", choices=("time", "memory", "both"), default="both")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--env", type=Path, default=Path("~/.cache/vitscope/peers"), help="of the environments")
    parser.add_argument("--json", type=Path, help="where results gather")
    parser.add_argument("--show", action="store_true", help="print the results of --json, and measure nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
