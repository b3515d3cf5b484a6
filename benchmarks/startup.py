"""How long a start takes, and what it imports: `python benchmarks/startup.py --help`. Linux, macOS.

Each job is a process of its own; rounds go through all jobs, so that a busy machine slows all of them alike. Seconds
are of CPU time, user and system, medians; the ratio is to `import torch` of the same round. With several `--source`
folders, such as `src` of two checkouts, their jobs alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

COMMAND = """
import sys
sys.argv = ["vitscope", *{words!r}]
from vitscope.cli import main
try:
    main()
finally:
    print(len(sys.modules), file=sys.stderr)
"""
CODE = "{code}\nimport sys; print(len(sys.modules), file=sys.stderr)"

TORCH = "import torch"
JOBS = {
    TORCH: CODE.format(code=TORCH),
    "import vitscope": CODE.format(code="import vitscope"),
    "from vitscope import Explainer": CODE.format(code="from vitscope import Explainer"),
    **{
        f"vitscope {words}": COMMAND.format(words=words.split())
        for words in ("--help", "--version", "explain --metod daam", "explain --help", "methods", "metrics", "datasets")
    },
}


def main() -> None:
    arguments = _arguments()
    found = {source: {name: [] for name in JOBS} for source in arguments.source}
    for _ in range(arguments.rounds):
        for name, script in JOBS.items():
            for source, runs in found.items():
                runs[name].append(once(script, source))
    for source, runs in found.items():
        print(f"\n{source}\n\n| | CPU seconds | of `{TORCH}` | modules | MiB |\n|---|--:|--:|--:|--:|")
        for name, each in runs.items():
            seconds, modules, memory = (statistics.median(values) for values in zip(*each, strict=True))
            ratio = statistics.median(one[0] / torch[0] for one, torch in zip(each, runs[TORCH], strict=True))
            print(f"| `{name}` | {seconds:.2f} | {ratio:.2f} | {modules:.0f} | {memory:.0f} |")
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1))


def once(script: str, source: str) -> tuple[float, int, float]:
    """CPU seconds, modules and peak MiB of a process."""
    environment = {**os.environ, "PYTHONPATH": source}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return usage.ru_utime + usage.ru_stime, int(said.split()[-1]), usage.ru_maxrss / unit


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    here = str(Path(__file__).resolve().parents[1] / "src")
    parser.add_argument("--source", nargs="+", default=[here], help="folders that hold the package")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="a file for all that was measured, JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
