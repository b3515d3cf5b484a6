"""What the tests catch: faults such as a refactoring makes, planted one by one in a copy of the repository.

    python tools/faults.py --list
    python tools/faults.py --out out/now.json                        all of them, by the tests that `make check` runs
    python tools/faults.py --level suite --out out/now.json          the survivors, by all of `make test`
    python tools/faults.py --revision 5cab33f --out out/then.json    an earlier revision and its own tests
    python tools/faults.py --table out/then.json out/now.json        what was found, side by side

A fault is an entry of tools/faults.toml. For each, the tests that `tools/check.py` selects for its file run until one
fails; at `--level suite` then, where none failed, all unmarked tests, and at `--level all` the integration tests too.
In the end the tests that caught something run in a copy without a fault, where they have to pass: what fails there too
has caught nothing. The file of results is written fault by fault; what it holds already is not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check

ROOT = Path(__file__).resolve().parents[1]
LEVELS = {"check": None, "suite": check.UNMARKED, "all": "integration and not slow"}
"""How far a survivor is taken, in this order; and the tests of each step, by their marks."""
COMMANDS = {"check": "check", "suite": "test", "all": "test-integration"}

SURVIVED, NOT_THERE, NO_END = "survived", "not there", "no end"
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S.*?)(?: - |$)", re.MULTILINE)
_NO_FAILURE = (0, check.NO_TESTS)


class FaultError(Exception):
    """A fault that cannot be planted, or a copy that says nothing of it."""


@dataclass(frozen=True)
class Fault:
    """A text and what takes its place.

    Attributes:
        name: of the fault.
        what: it does, in words.
        file: path from the root.
        old, new: the text, and what stands there instead.
        was: what stood there in earlier revisions.
        into: what stands there in these instead; "" for `new`.
    """

    name: str
    what: str
    file: str
    old: str
    new: str
    was: tuple[str, ...] = ()
    into: str = ""

    @property
    def digest(self) -> str:
        """Of all that decides what is planted."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def planted(self, text: str) -> str | None:
        """The text with the fault; None where there is no place for it.

        Raises:
            FaultError: there are several.
        """
        for old, new in ((self.old, self.new), *((was, self.into or self.new) for was in self.was)):
            if text.count(old) > 1:
                raise FaultError(f"{self.name}: {self.file} holds its text {text.count(old)} times; make it longer")
            if old in text:
                return text.replace(old, new)
        return None


def faults() -> list[Fault]:
    """All of them."""
    entries = tomllib.loads((ROOT / "tools" / "faults.toml").read_text("utf-8"))["fault"]
    prefix = f"src/{check.PACKAGE}/"
    return [Fault(**{**one, "file": prefix + one["file"], "was": tuple(one.get("was", ()))}) for one in entries]


def chosen(names: Sequence[str]) -> list[Fault]:
    """Those of these names, or all.

    Raises:
        FaultError: there is none of a name.
    """
    known = {fault.name: fault for fault in faults()}
    if unknown := [name for name in names if name not in known]:
        raise FaultError(f"there is no fault {unknown[0]}; --list names them")
    return [known[name] for name in names] if names else list(known.values())


# -- copies ------------------------------------------------------------------------------------------------------------


@contextmanager
def copied(revision: str) -> Iterator[Path]:
    """A folder with a revision, or without one with the working tree as it is; it goes in the end."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        copy = Path(folder) / "repository"
        copy.mkdir()
        _unpack(revision, copy) if revision else _copy_files(copy)
        yield copy


def _unpack(revision: str, copy: Path) -> None:
    packed = copy.parent / "revision.tar"
    subprocess.run(["git", "archive", "--output", str(packed), revision], cwd=ROOT, check=True)
    with tarfile.open(packed) as archive:
        archive.extractall(copy, filter="data")


def _copy_files(copy: Path) -> None:
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, text=True, capture_output=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)


def plant(fault: Fault, copy: Path) -> bool:
    """Put the fault into a copy; False where the revision has no such code."""
    file = copy / fault.file
    text = fault.planted(file.read_text("utf-8")) if file.is_file() else None
    if text is not None:
        file.write_text(text, "utf-8")
    return text is not None


def environment(copy: Path) -> dict[str, str]:
    """Of tests in a copy: its source comes first, and shared files lie where they lie for the working tree."""
    shared = os.environ.get("VITSCOPE_SHARED", str(ROOT.parent / "shared"))
    known = check.environment(VITSCOPE_SHARED=shared)
    return known | {"PYTHONPATH": os.pathsep.join([str(copy / "src"), known["PYTHONPATH"]])}


def check_imported(copy: Path) -> None:
    """Raise FaultError where the copy's package is not the one that is imported there."""
    asked = [sys.executable, "-c", f"import {check.PACKAGE}; print({check.PACKAGE}.__file__)"]
    found = subprocess.run(asked, cwd=copy, env=environment(copy), text=True, capture_output=True, check=False)
    if not Path(found.stdout.strip()).is_relative_to(copy):
        raise FaultError(f"{copy}: {found.stdout.strip() or found.stderr[-300:]} is imported, not the copy's package")


# -- tests -------------------------------------------------------------------------------------------------------------


def first_failure(copy: Path, arguments: Sequence[str], timeout: float) -> str:
    """The first test that fails in a copy; "" where none does.

    Raises:
        FaultError: pytest ended in another way.
    """
    command = [sys.executable, "-m", "pytest", "-p", "check", "-x", "-rfE", "--tb=no", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [*command, *arguments],
            cwd=copy,
            env=environment(copy),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return NO_END
    if failed := _FAILED.findall(done.stdout):
        return str(failed[0])
    if done.returncode not in _NO_FAILURE:
        raise FaultError(f"pytest ended with {done.returncode} and no failure:\n{done.stdout[-2000:]}")
    return ""


@dataclass(frozen=True)
class How:
    """How tests are run.

    Attributes:
        level: how far a survivor is taken.
        processes: of pytest, "" for one.
        timeout: seconds of a run of tests.
    """

    level: str
    processes: str
    timeout: float

    def runs(self, fault: Fault, copy: Path) -> Iterator[tuple[str, list[str]]]:
        """The levels with pytest's arguments, one after the other."""
        shared = ["-n", self.processes, "--dist", "loadgroup"] if self.processes else []
        for level, marks in LEVELS.items():
            if marks is not None:
                yield level, ["-m", marks, *shared]
            else:
                selected = check.select(check.Tree(copy), [fault.file])
                yield level, [*check.arguments_of(selected), *(shared if check.processes_of(selected) else [])]
            if level == self.level:
                return


def tried(fault: Fault, revision: str, how: How, passed: str = "") -> dict[str, object]:
    """What becomes of a fault.

    Args:
        fault: it.
        revision: in which it is planted; "" for the working tree.
        how: tests are run.
        passed: the level that it is known to have survived.
    """
    began, row = time.monotonic(), {"fault": fault.name, "digest": fault.digest}
    with copied(revision) as copy:
        if not plant(fault, copy):
            if not revision:
                raise FaultError(f"{fault.name}: {fault.file} holds its text no more; look where the code has gone")
            return row | {"caught_by": NOT_THERE, "level": how.level, "seconds": 0}
        check_imported(copy)
        for level, arguments in how.runs(fault, copy):
            if passed and list(LEVELS).index(level) <= list(LEVELS).index(passed):
                continue
            if caught := first_failure(copy, arguments, how.timeout):
                break
    seconds = round(time.monotonic() - began)
    return row | {"caught_by": caught or SURVIVED, "level": level, "seconds": seconds}


def failing_without(tests: Sequence[str], revision: str, how: How) -> list[str]:
    """Those of these tests that fail in a copy without a fault."""
    if not tests:
        return []
    with copied(revision) as copy:
        check_imported(copy)
        command = [sys.executable, "-m", "pytest", "-rfE", "--tb=no", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(command, cwd=copy, env=environment(copy), text=True, capture_output=True, check=False)
    if done.returncode not in (0, 1):
        raise FaultError(f"pytest ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    return _FAILED.findall(done.stdout)


# -- results -----------------------------------------------------------------------------------------------------------


def level_known(row: Mapping[str, object] | None, fault: Fault, level: str) -> tuple[bool, str]:
    """Whether a result says all that is asked for; and the level that the fault has survived."""
    if row is None or row["digest"] != fault.digest:
        return False, ""
    if row["caught_by"] != SURVIVED:
        return True, ""
    survived = str(row["level"])
    return list(LEVELS).index(survived) >= list(LEVELS).index(level), survived


def read(file: Path) -> dict[str, dict[str, object]]:
    """Fault -> its result."""
    return {row["fault"]: row for row in json.loads(file.read_text("utf-8"))["results"]} if file.is_file() else {}


def write(file: Path, revision: str, rows: Mapping[str, object]) -> None:
    """The results, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    passing = file.with_name(f".{file.name}")
    content = {"revision": revision or "working tree", "results": list(rows.values())}
    passing.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    passing.replace(file)


def table(files: Sequence[Path]) -> str:
    """The results side by side, in Markdown: a row a fault, a column a file."""
    results = [read(file) for file in files]
    revisions = [json.loads(file.read_text("utf-8"))["revision"] for file in files]
    lines = [f"| fault | {' | '.join(revisions)} |", f"|---{'|---' * len(files)}|"]
    for fault in faults():
        cells = [_cell(rows.get(fault.name)) for rows in results]
        lines.append(f"| {fault.what} (`{fault.file.removeprefix(f'src/{check.PACKAGE}/')}`) | {' | '.join(cells)} |")
    for rows, revision in zip(results, revisions, strict=True):
        planted = [row for row in rows.values() if row["caught_by"] != NOT_THERE]
        caught = [row for row in planted if row["caught_by"] != SURVIVED]
        lines.append(f"\n{revision}: {len(caught)} of {len(planted)} caught.")
    return "\n".join(lines)


def _cell(row: Mapping[str, object] | None) -> str:
    if row is None:
        return ""
    caught, level = str(row["caught_by"]), f"make {COMMANDS[str(row['level'])]}"
    if caught == NOT_THERE:
        return "no such code"
    if caught == SURVIVED:
        return f"**survives** {level}"
    test = caught.removeprefix("tests/").replace("|", "\\|")
    return f"{level}: {'no end' if caught == NO_END else f'`{test}`'}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of faults; otherwise all")
    parser.add_argument("--list", action="store_true", help="name the faults, and plant none")
    parser.add_argument("--level", choices=list(LEVELS), default="check", help="how far a survivor is taken")
    parser.add_argument("--revision", default="", help="plant in this revision; otherwise in the working tree")
    parser.add_argument("--processes", default="", help="of pytest for longer runs, such as auto; otherwise one")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds of a run of tests")
    parser.add_argument("--out", type=Path, help="file of results, which is taken up")
    parser.add_argument("--table", nargs="+", type=Path, metavar="FILE", help="print files of results, and plant none")
    options = parser.parse_args(arguments)
    if options.table:
        print(table(options.table))
        return 0
    asked = chosen(options.names)
    if options.list:
        print("\n".join(f"{fault.name}: {fault.what} ({fault.file})" for fault in asked))
        return 0
    how = How(options.level, options.processes, options.timeout)
    rows = read(options.out) if options.out else {}
    for fault in asked:
        enough, survived = level_known(rows.get(fault.name), fault, how.level)
        if enough:
            continue
        rows[fault.name] = row = tried(fault, options.revision, how, survived)
        print(f"{fault.name}: {row['caught_by']}, {row['level']}, {row['seconds']} s", flush=True)
        if options.out:
            write(options.out, options.revision, rows)
    return _settle(rows, [fault.name for fault in asked], options, how)


def _settle(rows: dict[str, dict[str, object]], names: Sequence[str], options: argparse.Namespace, how: How) -> int:
    """Hold what caught faults against a copy without one, and say what survives; 1 where something does."""
    fresh = [rows[name] for name in names if "passes_without" not in rows[name]]
    caught = {str(row["caught_by"]) for row in fresh} - {SURVIVED, NOT_THERE, NO_END}
    failing = failing_without(sorted(caught), options.revision, how)
    for row in fresh:
        if row["caught_by"] in failing:
            print(f"{row['fault']}: {row['caught_by']} fails without the fault too, and has caught nothing")
            del rows[str(row["fault"])]
        elif row["caught_by"] in caught:
            row["passes_without"] = True
    if options.out:
        write(options.out, options.revision, rows)
    left = [name for name in names if rows.get(name, {}).get("caught_by") == SURVIVED]
    print(f"{len(names)} faults, {len(left)} survive{': ' + ', '.join(left) if left else ''}")
    return 1 if left or failing else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FaultError as error:
        sys.exit(f"faults: {error}")
