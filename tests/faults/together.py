"""Two processes at once: `python -m tests.faults.together SAID COUNT WORD...`; JSON of [exit code, streams] of all."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from tests.faults.interrupting import child


def main(said: Path, count: int, words: list[str]) -> None:
    """See the module."""
    files = [said.with_name(f"{said.name}{number}") for number in range(count)]
    pids = []
    for file in files:
        pids.append(child(words, file))
        time.sleep(0.15)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    said_all = [file.read_text(errors="replace") for file in files]
    sys.stdout.write(json.dumps(list(zip(codes, said_all, strict=True))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
