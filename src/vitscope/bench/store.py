"""A run's folder: Parquet parts that are whole or absent, and a manifest.

    manifest.json            what the run is, its hash, and what became of it
    parts/part-00000.parquet ...

A part is written under another name, brought to the disk, and renamed, so that a kill at any moment leaves whole parts
only. The hash of the run stands in each.
"""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vitscope.bench.plan import Part
from vitscope.errors import VitscopeError
from vitscope.parse import parse_json

MANIFEST = "manifest.json"
PARTS = "parts"
TABLES = "tables"
SCHEMA_VERSION = 1
_HASH = b"vitscope.run"
_FACTS = b"vitscope.facts"
_BESIDE = ("summary.csv", "summary.json", "pairs.csv", "curves.csv", "page.html")


@dataclass(frozen=True)
class Store:
    """The folder of one run.

    Attributes:
        folder: it.
        hash: of the run.
    """

    folder: Path
    hash: str

    @classmethod
    def begin(
        cls, folder: Path, run: Mapping[str, Any], hash_: str, *, resume: bool = False, overwrite: bool = False
    ) -> Store:
        """Make the folder, or take up the run that is in it.

        Args:
            folder: made where it is missing.
            run: what the run is, ready for JSON: a later one is held against it.
            hash_: of it.
            resume: go on with a run that was interrupted.
            overwrite: delete what another run left.

        Raises:
            VitscopeError: the folder cannot be written, holds another run, or this one and `resume` is not asked for.
        """
        store = cls(folder, hash_)
        with _told(folder):
            (folder / PARTS).mkdir(parents=True, exist_ok=True)
        there = None if overwrite else store.manifest()  # a damaged one is no obstacle to what takes its place
        if overwrite:
            store._clear()
        elif there is not None and there.get("hash") != hash_:
            raise VitscopeError(
                f"{folder}: holds another run ({_difference(there.get('plan', {}), run)}); choose another folder, or "
                "add --overwrite"
            )
        elif there is not None and not resume:
            state = "this run, complete" if there.get("status") == "complete" else "a part of this run"
            raise VitscopeError(f"{folder}: holds {state}; add --resume to go on, or --overwrite to begin again")
        elif there is None and any((folder / PARTS).glob("*.parquet")):
            raise VitscopeError(f"{folder}: holds parts without a manifest; choose another folder, or add --overwrite")
        with _told(folder):
            for left in (*folder.glob(f".{MANIFEST}.*.tmp"), *(folder / PARTS).glob(".part-*.parquet.*.tmp")):
                if not _alive(left.name.split(".")[-2]):  # another process may be at the same run
                    left.unlink(missing_ok=True)
        return store

    def manifest(self) -> dict[str, Any] | None:
        """What the manifest says; None where there is none.

        Raises:
            VitscopeError: it cannot be read.
        """
        file = self.folder / MANIFEST
        if not file.is_file():
            return None
        try:
            content = parse_json(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise VitscopeError(f"{file}: cannot be read ({error}); add --overwrite to begin again") from error
        if not isinstance(content, dict):
            raise VitscopeError(f"{file}: is no manifest of a run; add --overwrite to begin again")
        return content

    def write_manifest(self, content: Mapping[str, Any]) -> None:
        """Whole, or not at all.

        Raises:
            VitscopeError: it cannot be written.
        """
        head = {"schema_version": SCHEMA_VERSION, "hash": self.hash}
        text = json.dumps({**head, **content}, indent=2, ensure_ascii=False)
        self._put(self.folder / MANIFEST, text.encode())

    def path(self, part: Part) -> Path:
        """Of a part's file."""
        return self.folder / PARTS / f"{part.name}.parquet"

    def missing(self, parts: Iterable[Part]) -> list[Part]:
        """The parts that are not there, or are no part of this run."""
        return [part for part in parts if self.facts(part) is None]

    def facts(self, part: Part) -> dict[str, Any] | None:
        """What was written with a part beside its rows; None where it is not there or damaged."""
        try:
            known = pq.read_schema(self.path(part)).metadata or {}
        except (OSError, ValueError, pa.ArrowException):
            return None
        if known.get(_HASH) != self.hash.encode():
            return None
        try:
            facts = parse_json(known[_FACTS])
        except (KeyError, ValueError):
            return None
        return facts if isinstance(facts, dict) else None

    def write(self, part: Part, table: pa.Table, facts: Mapping[str, Any]) -> None:
        """A part, whole or not at all.

        Raises:
            VitscopeError: the disk is full, or the folder cannot be written.
        """
        marked = table.replace_schema_metadata(
            {**(table.schema.metadata or {}), _HASH: self.hash.encode(), _FACTS: json.dumps(dict(facts)).encode()}
        )
        buffer = io.BytesIO()
        pq.write_table(marked, buffer, compression="zstd", use_dictionary=_repeating(marked.schema))
        self._put(self.path(part), buffer.getbuffer())

    def _put(self, path: Path, content: bytes | memoryview) -> None:
        beside = path.parent / f".{path.name}.{os.getpid()}.tmp"
        with _told(path):
            try:
                with beside.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                beside.replace(path)
            except OSError:
                beside.unlink(missing_ok=True)
                raise
            _sync(path.parent)

    def _clear(self) -> None:
        """Take away what a run wrote; the manifest last, so that an interruption is seen."""
        with _told(self.folder):
            for file in (self.folder / PARTS).glob("part-*.parquet"):
                file.unlink()
            for file in (each for end in ("md", "tex") for each in (self.folder / TABLES).glob(f"*.{end}")):
                file.unlink()
            for name in (*_BESIDE, MANIFEST):
                (self.folder / name).unlink(missing_ok=True)


def _alive(process: str) -> bool:
    """Whether another process of this number is there."""
    if not process.isdecimal() or int(process) == os.getpid():
        return False
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        return True
    return True


def _repeating(schema: pa.Schema) -> list[str]:
    """The columns that a dictionary makes smaller; of a map's values, nearly all different, it would be the larger."""
    return [column.name for column in schema if not pa.types.is_list(column.type)]


def parts_in(folder: str | os.PathLike[str]) -> list[Path]:
    """The files of a run's parts, in order.

    Raises:
        VitscopeError: there is none.
    """
    found = sorted((Path(folder) / PARTS).glob("part-*.parquet"))
    if not found:
        raise VitscopeError(f"{folder}: holds no parts of a run; give the folder that --out named")
    return found


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the system refuses, as one line with the next action."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise VitscopeError(f"{path}: the disk is full; free some space and run again with --resume") from error
        reason = error.strerror or type(error).__name__
        raise VitscopeError(f"{path}: cannot be written ({reason}); choose another folder for --out") from error


def _sync(folder: Path) -> None:
    """Bring the renaming to the disk, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # a system that opens no folders
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def _difference(before: Any, now: Mapping[str, Any]) -> str:
    """Which parts of two runs differ, in words."""
    plain: Mapping[str, Any] = json.loads(json.dumps(dict(now), default=str))
    if not isinstance(before, Mapping):
        return "made otherwise"
    keys: Sequence[str] = [key for key in plain if before.get(key) != plain[key] and key != "weights"]
    return "other " + ", ".join(keys) if keys else "made otherwise"
