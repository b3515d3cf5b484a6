"""Reading what a run left: Parquet parts of one row per image, method and metric, as arrays of methods by images.

The parts are scanned, never held: in memory at a time are the arrays of a few metrics. Axes: m methods, n images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vitscope.errors import VitscopeError

COLUMNS = ("image", "method", "metric", "value", "target", "prediction", "error")
WORDS = ("image", "method", "metric")
NO_TARGET = -1
NONE, VALUE, UNDEFINED, ERROR = 0, 1, 2, 3
"""What is known of an entry: no row, a finite value, a value that is not defined (not finite), a failure."""

BUDGET = 40_000_000
"""Entries that are held at a time, 9 bytes each; one metric that needs more is still read at once."""

LISTED = 200
"""Different failures that are kept by their text; all are counted."""


@dataclass(frozen=True)
class Failure:
    """Rows that failed in the same way.

    Attributes:
        method: its label.
        error: the text.
        rows: how many.
        image: the first of them.
    """

    method: str
    error: str
    rows: int
    image: str


@dataclass(frozen=True, eq=False)
class Block:
    """The rows of some names.

    Attributes:
        values: row name -> (m n) float64, NaN where there is no finite value.
        known: row name -> (m n) uint8: NONE, VALUE, UNDEFINED or ERROR.
        targets: (n) the class that was explained, NO_TARGET where none is written; the first method's that has one.
    """

    values: Mapping[str, NDArray[np.float64]]
    known: Mapping[str, NDArray[np.uint8]]
    targets: NDArray[np.int64]

    def of(self, methods: Sequence[int] | slice, images: NDArray[np.int64] | slice = slice(None)) -> Block:
        """Of some methods, in this order, and of some images."""
        return Block(
            {name: array[methods][:, images] for name, array in self.values.items()},
            {name: array[methods][:, images] for name, array in self.known.items()},
            self.targets[images],
        )


@dataclass(frozen=True, eq=False)
class Rows:
    """The parts of a run.

    Attributes:
        files: the parts.
        images, methods, metrics: all names; images sorted, so that the order of the parts changes nothing, the others
            as the first part has them.
        count: of rows.
        failures: what failed, most often first.
        failed: rows that failed, of all kinds.
    """

    files: tuple[Path, ...]
    images: tuple[str, ...]
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    count: int
    failures: tuple[Failure, ...]
    failed: int

    @classmethod
    def open(cls, folder: Path) -> Rows:
        """Scan the parts of a run's folder once for their names.

        Raises:
            VitscopeError: there is no part, no row, or a part is damaged or has other columns.
        """
        files = tuple(sorted((folder / "parts").glob("*.parquet")))
        if not files:
            raise VitscopeError(f"{folder}/parts holds no Parquet part; give the folder that `vitscope bench` wrote")
        seen = _Seen()
        for batch in _batches(files):
            seen.add(batch)
        if not seen.count:
            raise VitscopeError(f"{folder}/parts holds no row; run `vitscope bench` on at least one image")
        failures = [Failure(method, text, rows, image) for (method, text), (rows, image) in seen.failures.items()]
        return cls(
            files,
            tuple(sorted(seen.names["image"])),
            tuple(seen.names["method"]),
            tuple(name for name in seen.names["metric"] if name),
            seen.count,
            tuple(sorted(failures, key=lambda one: -one.rows)),
            seen.failed,
        )

    def blocks(self, groups: Sequence[Sequence[str]]) -> Iterator[Block]:
        """The rows of every group of names, in turn; as many groups a scan as `BUDGET` allows.

        Raises:
            VitscopeError: an image, method and metric has two rows.
        """
        pack: list[Sequence[str]] = []
        for group in groups:
            size = sum(map(len, pack)) + len(group)
            if pack and size * len(self.images) * len(self.methods) > BUDGET:
                yield from self._scan(pack)
                pack = []
            pack.append(group)
        if pack:
            yield from self._scan(pack)

    def _scan(self, groups: Sequence[Sequence[str]]) -> Iterator[Block]:
        """One scan of all parts."""
        names = list(dict.fromkeys(name for group in groups for name in group))
        places = {
            "image": {name: place for place, name in enumerate(self.images)},
            "method": {name: place for place, name in enumerate(self.methods)},
            "metric": {name: place for place, name in enumerate(names)},
        }
        shape = (len(names), len(self.methods), len(self.images))
        values, known = np.full(shape, np.nan), np.zeros(shape, dtype=np.uint8)
        targets = np.full((len(groups), len(self.images)), NO_TARGET, dtype=np.int64)
        of_group = np.zeros((len(groups), len(names)), dtype=bool)
        for number, group in enumerate(groups):
            of_group[number, [places["metric"][name] for name in group]] = True
        rows = 0
        for batch in _batches(self.files):
            image, method, metric = (_codes(batch.column(word), places[word]) for word in WORDS)
            here = metric >= 0
            image, method, metric = image[here], method[here], metric[here]
            found, state, target = (array[here] for array in _contents(batch))
            values[metric, method, image] = found
            known[metric, method, image] = state
            rows += len(image)
            for number in range(len(groups)):
                told = of_group[number, metric] & (target != NO_TARGET)
                order = np.flatnonzero(told)[::-1]  # where an image comes again, the first row stands
                fresh = order[targets[number, image[order]] == NO_TARGET]
                targets[number, image[fresh]] = target[fresh]
        if rows != int(np.count_nonzero(known)):
            raise VitscopeError(
                f"{self.files[0].parent} holds {rows - int(np.count_nonzero(known))} rows twice (same image, method "
                "and metric); delete the parts that were copied there, or run again into an empty folder"
            )
        for number, group in enumerate(groups):
            at = places["metric"]
            yield Block(
                {name: values[at[name]] for name in group}, {name: known[at[name]] for name in group}, targets[number]
            )


@dataclass
class _Seen:
    """Names and failures so far; dicts keep the order."""

    names: dict[str, dict[str, None]] = field(default_factory=lambda: {word: {} for word in WORDS})
    failures: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    count: int = 0
    failed: int = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self.count += batch.num_rows
        for word in WORDS:
            column = batch.column(word)
            used = np.unique(column.indices.to_numpy(zero_copy_only=False), return_index=True)
            for place in used[0][np.argsort(used[1])]:
                self.names[word].setdefault(column.dictionary[int(place)].as_py())
        for place in np.flatnonzero(_failed(batch)).tolist():
            self.failed += 1
            key = batch.column("method")[place].as_py(), batch.column("error")[place].as_py() or "no value was written"
            if key in self.failures:
                rows, first = self.failures[key]
                self.failures[key] = rows + 1, first
            elif len(self.failures) < LISTED:
                self.failures[key] = 1, batch.column("image")[place].as_py()


def _batches(files: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    """The parts in pieces, their words as dictionaries."""
    for file in files:
        try:
            schema = pq.read_schema(file)
            if missing := set(COLUMNS) - set(schema.names):
                raise VitscopeError(f"{file} has no column {', '.join(sorted(missing))}; take it out of parts/")
            if wrong := [name for name in COLUMNS if not _fits(name, schema.field(name).type)]:
                raise VitscopeError(f"{file} has another kind of {', '.join(wrong)}; take it out of parts/")
            with pq.ParquetFile(file, read_dictionary=[*WORDS, "error"]) as part:
                for batch in part.iter_batches(batch_size=1 << 17, columns=list(COLUMNS)):
                    if any(batch.column(word).null_count for word in WORDS):
                        raise VitscopeError(
                            f"{file} has rows that name no picture, method or metric; take it out of parts/"
                        )
                    yield _encoded(batch)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise VitscopeError(f"{file} cannot be read ({error}); delete it and run again with --resume") from error


def _fits(name: str, kind: Any) -> bool:
    """Whether a column may be of an Arrow type."""
    if name in ("value", "target", "prediction"):
        return bool(pa.types.is_integer(kind) or (name == "value" and pa.types.is_floating(kind)))
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _encoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Words as dictionaries, whatever the writer chose."""
    columns = [
        column.dictionary_encode() if name in WORDS and not pa.types.is_dictionary(column.type) else column
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _codes(column: Any, places: Mapping[str, int]) -> NDArray[np.int64]:
    """Each row's place among the names; -1 where its name is not asked for."""
    local = np.array([places.get(name, -1) for name in column.dictionary.to_pylist()], dtype=np.int64)
    codes: NDArray[np.int64] = local[column.indices.to_numpy(zero_copy_only=False).astype(np.int64)]
    return codes


def _failed(batch: pa.RecordBatch) -> NDArray[np.bool_]:
    """Rows with an error, and rows without a value, which only a failure leaves."""
    column = batch.column("error")
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    failed = pc.or_(batch.column("value").is_null(), pc.not_equal(column.fill_null(""), ""))
    return np.asarray(failed.to_numpy(zero_copy_only=False), dtype=bool)


def _contents(batch: pa.RecordBatch) -> tuple[NDArray[np.float64], NDArray[np.uint8], NDArray[np.int64]]:
    """Values, NaN where there is no finite one; what is known of each; targets."""
    values = batch.column("value").cast(pa.float64()).to_numpy(zero_copy_only=False)
    failed, finite = _failed(batch), np.isfinite(values)
    state = np.where(failed, ERROR, np.where(finite, VALUE, UNDEFINED)).astype(np.uint8)
    targets = batch.column("target").cast(pa.int64()).fill_null(NO_TARGET).to_numpy(zero_copy_only=False)
    return np.where(state == VALUE, values, np.nan), state, targets
