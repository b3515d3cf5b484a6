"""`python -m tools.fuzz [--cases N] [--seed S] [--subject images,plans]`; exit code 1 where there are findings."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a name of a model that does not exist is asked of nobody
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tools.fuzz.judge import FINDING, READ, REFUSED, Case, judge
from tools.fuzz.run import Tally, fuzz
from tools.fuzz.subjects import SHARES, SUBJECTS


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="of all subjects together, by their shares")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of a subject's first case")
    parser.add_argument("--subject", default=",".join(SUBJECTS), help=f"with commas between: {', '.join(SUBJECTS)}")
    parser.add_argument("--seconds", type=float, default=20.0, help="that one case may take")
    parser.add_argument("--keep", type=Path, default=Path("out/fuzz"), help="folder for the cases of findings")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--repeat", type=Path, help="a kept case, to run it again with its traceback")
    asked = parser.parse_args()
    if asked.repeat:
        return repeat(asked.repeat)
    names = asked.subject.split(",")
    if unknown := set(names) - set(SUBJECTS):
        parser.error(f"no subject {', '.join(sorted(unknown))}")
    whole = sum(SHARES[name] for name in names)
    numbers, found = {}, 0
    print(f"{'subject':<12} {'cases':>7} {'read':>7} {'refused':>7} {'findings':>8} {'seconds':>8} {'slowest':>8}")
    for name in names:
        cases = round(asked.cases * SHARES[name] / whole)
        tally = fuzz(
            SUBJECTS[name](),
            name,
            cases,
            asked.seed,
            first=asked.first,
            seconds=asked.seconds,
            keep=asked.keep,
            say=lambda line: print(f"  {line}", file=sys.stderr, flush=True),
        )
        found += len(tally.findings)
        numbers[name] = of_tally(tally)
        print(
            f"{name:<12} {cases:>7} {tally.counts[READ]:>7} {tally.counts[REFUSED]:>7} {tally.counts[FINDING]:>8} "
            f"{tally.seconds:>8.1f} {tally.slowest:>8.3f}",
            flush=True,
        )
    if asked.json:
        asked.json.write_text(json.dumps({"seed": asked.seed, "first": asked.first, "subjects": numbers}, indent=1))
    return 1 if found else 0


def of_tally(tally: Tally) -> dict[str, object]:
    """Ready for JSON."""
    findings = [
        {"place": place, "cases": count, "first": tally.texts[place][1], "text": tally.texts[place][0]}
        for place, count in tally.findings.most_common()
    ]
    return {
        "cases": sum(tally.counts.values()),
        **tally.counts,
        "kinds": dict(tally.kinds),
        "seconds": round(tally.seconds, 1),
        "slowest": round(tally.slowest, 3),
        "places": findings,
    }


def repeat(file: Path) -> int:
    """Run one kept case; what it raises is shown whole."""
    name, case = Case.from_json(file.read_text())
    with tempfile.TemporaryDirectory() as desk:
        subject = SUBJECTS[name]()
        subject.prepare(Path(desk) / name)
        began = time.perf_counter()
        verdict = judge(subject, case)
        print(f"{verdict.outcome}: {verdict.text} ({time.perf_counter() - began:.3f} s)")
        if verdict.outcome == FINDING:
            subject.call(case)
    return 0 if verdict.outcome != FINDING else 1


if __name__ == "__main__":
    sys.exit(main())
