"""Many cases in a process of their own, so that one that kills or stops it is a finding as well."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.fuzz.judge import FINDING, Case, Subject, Verdict, case_of, judge

KEPT = 3
"""Cases of one finding that are kept with their bytes."""


@dataclass
class Tally:
    """What came of a subject's cases.

    Attributes:
        counts: outcome -> cases.
        kinds: entry of the subject -> cases.
        findings: place -> cases.
        texts: place -> the first case's text and number.
        seconds: of all.
        slowest: seconds of one case.
    """

    counts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    texts: dict[str, tuple[str, int]] = field(default_factory=dict)
    seconds: float = 0.0
    slowest: float = 0.0

    def add(self, index: int, case: Case, verdict: Verdict, seconds: float) -> None:
        """Count a case."""
        self.counts[verdict.outcome] += 1
        self.kinds[case.kind] += 1
        self.slowest = max(self.slowest, seconds)
        if verdict.outcome == FINDING:
            self.findings[verdict.place] += 1
            self.texts.setdefault(verdict.place, (verdict.text, index))


def fuzz(
    subject: Subject,
    name: str,
    cases: int,
    seed: int,
    *,
    first: int = 0,
    seconds: float = 20.0,
    keep: Path | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Tally:
    """Run a subject's cases.

    Args:
        subject: it.
        name: of it.
        cases: how many.
        seed: of their making.
        first: number of the first.
        seconds: that one case may take.
        keep: a folder for the cases of findings.
        say: is told of each new finding.
    """
    tally, began, index = Tally(), time.perf_counter(), first
    in_memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # some ten files a millisecond
    with tempfile.TemporaryDirectory(dir=in_memory) as desk:
        while index < first + cases:
            index = _watch(subject, name, range(index, first + cases), seed, seconds, tally, keep, say, Path(desk))
    tally.seconds = time.perf_counter() - began
    return tally


def _watch(
    subject: Subject,
    name: str,
    indices: range,
    seed: int,
    seconds: float,
    tally: Tally,
    keep: Path | None,
    say: Callable[[str], object],
    desk: Path,
) -> int:
    """One process, until its cases are done or one of them ended it; the number to go on with."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(subject, name, indices, seed, desk, theirs))
    process.start()
    theirs.close()
    done = indices.start

    def keep_case(index: int, case: Case, verdict: Verdict, took: float) -> None:
        new = verdict.outcome == FINDING and verdict.place not in tally.findings
        tally.add(index, case, verdict, took)
        if new:
            say(f"{name} {index}: {verdict.text}")
        if verdict.outcome == FINDING and keep is not None and tally.findings[verdict.place] <= KEPT:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{name}-{verdict.key}-{index}.json").write_text(case.to_json(name, verdict))

    try:
        while done < indices.stop:
            # the first answer waits for the valid files to be made
            if not ours.poll(seconds if done > indices.start else 60 + seconds):
                verdict = Verdict(
                    FINDING, f"no answer within {seconds:g} s", f"hang {_kind(subject, name, seed, done, desk)}"
                )
                break
            index, case, verdict, took = ours.recv()
            keep_case(index, case, verdict, took)
            done = index + 1
        else:
            return done
    except EOFError:
        process.join()
        verdict = Verdict(
            FINDING, f"the process died ({process.exitcode})", f"death {_kind(subject, name, seed, done, desk)}"
        )
    finally:
        process.kill()
        process.join()
    keep_case(done, case_of(subject, name, seed, done), verdict, seconds)
    return done + 1


def _kind(subject: Subject, name: str, seed: int, index: int, desk: Path) -> str:
    """Of a case that could not tell itself."""
    subject.prepare(desk / name)
    return case_of(subject, name, seed, index).kind


def _work(subject: Subject, name: str, indices: range, seed: int, desk: Path, out: Any) -> None:
    """The child: every case's number, itself where it is a finding, what became of it, and its seconds."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        subject.prepare(desk / name)
        for index in indices:
            case = case_of(subject, name, seed, index)
            began = time.perf_counter()
            verdict = judge(subject, case)
            took = time.perf_counter() - began
            out.send((index, case if verdict.outcome == FINDING else Case(case.kind), verdict, took))
    out.close()
