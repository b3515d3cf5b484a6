"""One case: what is given to vitscope, and what of its answers is a finding."""

from __future__ import annotations

import base64
import hashlib
import json
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Protocol

from vitscope.errors import VitscopeError

READ, REFUSED, FINDING = "read", "refused", "finding"
LONGEST = 2000
"""Characters of an error's line; a longer one is no answer."""
MEMORY = 1536
"""MiB that a case may take: Pillow's own bound of pixels, in the few copies that a conversion makes."""


@dataclass(frozen=True)
class Case:
    """What is given.

    Attributes:
        kind: which entry of the subject.
        files: their names, below the subject's folder, and contents.
        words: a command line, or options.
    """

    kind: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    words: tuple[str, ...] = ()

    def to_json(self, subject: str, verdict: Verdict) -> str:
        """All that repeats it."""
        files = {name: base64.b64encode(content).decode() for name, content in self.files.items()}
        content = {"subject": subject, "kind": self.kind, "words": self.words, "files": files, "found": verdict.text}
        return json.dumps(content, indent=1)

    @classmethod
    def from_json(cls, text: str) -> tuple[str, Case]:
        """The subject's name and the case."""
        content: dict[str, Any] = json.loads(text)
        files = {name: base64.b64decode(code) for name, code in content["files"].items()}
        return content["subject"], cls(content["kind"], files, tuple(content["words"]))


@dataclass(frozen=True)
class Verdict:
    """What became of a case.

    Attributes:
        outcome: READ, REFUSED in one line, or a FINDING.
        text: the error.
        place: of a finding: what tells it from others.
    """

    outcome: str
    text: str = ""
    place: str = ""

    @property
    def key(self) -> str:
        """Short, of the place."""
        return hashlib.sha256(self.place.encode()).hexdigest()[:8]


class Subject(Protocol):
    """Something of vitscope that reads what others wrote."""

    def prepare(self, folder: Path) -> None:
        """Write the valid files below `folder`, the same on every call."""
        ...

    def case(self, chance: Random) -> Case:
        """The next case, of what `prepare` wrote."""
        ...

    def call(self, case: Case) -> None:
        """Give it to vitscope; VitscopeError is the one thing that may be raised."""
        ...


def case_of(subject: Subject, name: str, seed: int, index: int) -> Case:
    """The case of a number; the same on every machine with the same libraries."""
    return subject.case(Random(f"{seed}/{name}/{index}"))


def judge(subject: Subject, case: Case) -> Verdict:
    """Run a case: it succeeds, or fails in one line of vitscope's; anything else is a finding."""
    _forget_peak()
    try:
        subject.call(case)
    except VitscopeError as error:
        verdict = _of_refusal(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a finding may be of any kind
        place = _place_of(error)
        verdict = Verdict(FINDING, f"{type(error).__name__}: {' '.join(str(error).split())[:300]} at {place}", place)
    else:
        verdict = Verdict(READ)
    if verdict.outcome != FINDING and (took := _peak()) > MEMORY:
        return Verdict(FINDING, f"took {took} MiB", f"memory {case.kind}")
    return verdict


def _of_refusal(error: VitscopeError) -> Verdict:
    text = str(error)
    if not text.strip() or len(text.splitlines()) > 1 or len(text) > LONGEST:
        return Verdict(FINDING, f"no line: {text[:300]!r} ({len(text)} characters)", f"line {_place_of(error)}")
    return Verdict(REFUSED, text)


def _place_of(error: BaseException) -> str:
    """The kind of an error and the last line of vitscope that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "vitscope/" in frame.filename.replace("\\", "/")] or frames
    if not ours:
        return type(error).__name__
    file = ours[-1].filename.replace("\\", "/").rpartition("vitscope/")[2]
    return f"{type(error).__name__} {file}:{ours[-1].name}:{ours[-1].lineno}"


_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _forget_peak() -> None:
    """From here on the peak is the case's own, where the system can (Linux)."""
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def _peak() -> int:
    """MiB that the process has taken at most beyond what it holds now."""
    if not _CLEAR.exists():
        return 0
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
    return (int(lines["VmHWM"].split()[0]) - int(lines["VmRSS"].split()[0])) // 1024
