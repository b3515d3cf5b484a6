"""Ctrl-C at random moments: `python -m tests.faults.interrupting OUT TIMES SEED WORD...`, in a process of its own.

Each attempt is a forked child that runs `vitscope WORD...` and is sent SIGINT; this process imports torch and never
computes, so that the fork is safe. The first word may be "again:--resume" for what is added from the second attempt on.
The last attempt is left alone. Prints a JSON list of [exit code, error stream] of all.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.faults.valid import check
from vitscope import cli


def child(words: list[str], said: Path) -> int:
    """A process that runs the command, its streams in a file; its number."""
    pid = os.fork()
    if pid:
        return pid
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 99
    try:
        stream = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        sys.argv = ["vitscope", *words]
        cli.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except BaseException as error:
        os.write(2, f"Traceback: {error!r}".encode())
    os._exit(code)


def main(out: Path, times: int, seed: int, words: list[str]) -> None:
    """See the module."""
    out.parent.mkdir(parents=True, exist_ok=True)
    more = []
    if words[0].startswith("again:"):
        more = [words.pop(0).removeprefix("again:")]
    chance, said, found = random.Random(seed), out.parent.with_name("said.txt"), []
    longest = 0.0
    for attempt in range(times + 1):
        began = time.monotonic()
        pid = child([*words, *(more if found and more else [])], said)
        if attempt < times:
            delay = chance.uniform(0.02, longest or 6)
            status = 0
            done = 0
            while not done and time.monotonic() - began < delay:
                done, status = os.waitpid(pid, os.WNOHANG)
                time.sleep(0.002)
            if not done:
                os.kill(pid, signal.SIGINT)
                _, status = os.waitpid(pid, 0)
            elif not longest:
                longest = time.monotonic() - began
        else:
            _, status = os.waitpid(pid, 0)
        if out.parent.is_dir():
            check(out.parent)
        found.append([os.waitstatus_to_exitcode(status), said.read_text(errors="replace")])
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
